"""The worth of each rank position to the loss, and the ranks that remain without noise.

The positions of a layer are the singular directions of its update, largest first; a rank keeps the
first of them. `worths` holds one non-negative tensor (rank,) for each layer.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from ..adapter.allocation import descending

# Section G of docs/results.md shows what other values of these do to random planted ranks.

# noise begins where a position is worth this many times less than the one before it,
CLIFF = 25.0
# no more than this share of mean_worth,
NOISE = 0.03
# and about as much as those behind it: they are all together worth this many times as much, or, if
# they are fewer than twice as many, half as many times as there are of them
ALIKE = 4


def position_worth(lora_up: Tensor, second_moment: Tensor) -> Tensor:
    """Returns how much the loss would rise without each position, (rank,), up to a factor that all
    layers share: sum_o B_oi^2 E[(dL/dB_oi)^2].

    lora_up is B, [out, rank], or those of several layers in front of each other; second_moment is
    Adam's running mean of its squared gradient. This is the diagonal second-order term, with the
    empirical Fisher information as curvature (LeCun, Denker, Solla 1989).
    """
    return (lora_up.square() * second_moment).sum(-2)


def tempered(worth: Tensor) -> Tensor:
    """Returns a layer's worths divided by the square root of their sum, so that layers with a small
    effect on the loss keep some rank too.
    """
    total = worth.sum()
    return worth / total.sqrt() if total > 0 else worth


def drawn_on(worth: Tensor, count: int) -> Tensor:
    """Returns what `count` further positions of a layer would be worth if its worths (rank,), rank
    above 0, went on falling as they do: geometrically.
    """
    falling = descending(worth)
    fall = (falling[-1] / falling[0]) ** (1 / max(1, len(falling) - 1)) if falling[0] > 0 else 0.0
    return falling[-1:] * fall ** torch.arange(1, max(0, count) + 1, device=worth.device)


def mean_worth(worths: Sequence[Tensor]) -> float:
    """Returns the worth of a typical useful position, sum w^2 / sum w, which noise hardly
    changes.
    """
    everything = torch.cat(list(worths))
    total = float(everything.sum())
    return float(everything.square().sum()) / total if total > 0 else 0.0


def above_noise(worths: Sequence[Tensor], tolerance: float | None = None) -> list[int]:
    """Returns the rank of each layer without its noise.

    With a tolerance, the positions below tolerance * mean_worth are cut off. Without one, positions
    are cut off only where they lie below NOISE * mean_worth, behind a cliff, where worth falls
    CLIFF times from one position to the next, and are much ALIKE: what falls on behind a cliff is
    signal. For the first position of a layer, NOISE * mean_worth stands for the position before.
    Worths that fall gently are kept uncut. Positions that are worth nothing are always cut off.
    """
    least = (NOISE if tolerance is None else tolerance) * mean_worth(worths)
    ranks = []
    for worth in map(descending, worths):
        gone = worth < least
        if tolerance is None and len(worth):
            before = torch.cat([worth.new_tensor([least]), worth[:-1]])
            together = worth.flip(0).cumsum(0).flip(0)
            count = torch.arange(len(worth), 0, -1, device=worth.device)
            alike = worth * (count / 2).clamp(max=ALIKE) < together
            gone = (gone & alike & (worth * CLIFF < before)).cummax(0).values
        ranks.append(len(worth) - int((gone | (worth <= 0)).sum()))
    return ranks
