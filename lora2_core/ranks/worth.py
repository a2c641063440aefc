"""The worth of each rank position to the loss, and the ranks that remain without noise.

The positions of a layer are the singular directions of its update, largest first; a rank keeps the
first of them. `worths` holds one non-negative tensor (rank,) for each layer.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from ..adapter.allocation import descending

# Figures: "F" is section F of docs/results.md. The limits of noise were chosen on its planted
# ranks, that is on layers whose true ranks are known: all but one of ten are learned exactly.

# exponent: a layer's worths are divided by (their sum) ** TEMPER before layers are compared. F
# shows 0 within chance (+0.8% on pictures); it stays so that layers with a small effect keep some
# rank
TEMPER = 0.5
# noise begins where a position is worth this many times less than the one before it ...
CLIFF = 25.0
# ... or where all positions from there on are together worth this many times less than it, if
TAIL = 2.0
# they are at least this many (the end of a short tail is always worth little)
LONG = 8
# and much alike: the first of them is worth at most 1 / ALIKE of their sum
ALIKE = 4
# share of mean_worth: a position that is worth more than this is never noise
NOISE = 0.03


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
    return worth / total**TEMPER if total > 0 else worth


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


def above_noise(
    worths: Sequence[Tensor], tolerance: float | None = None, evidence: float = 1.0
) -> list[int]:
    """Returns the rank of each layer without its noise.

    With a tolerance, the positions below tolerance * mean_worth are cut off. Without one, positions
    are cut off only where they lie below NOISE * mean_worth and behind a cliff: the first of them
    is worth less than 1 / CLIFF of the position before, or all of them together (LONG or more, and
    ALIKE) less than 1 / TAIL of it. For the first position of a layer, NOISE * mean_worth stands
    for the position before. Noise looks like that; worths that fall gently are kept uncut.
    `evidence` multiplies CLIFF and TAIL. Positions that are worth nothing are always cut off.
    """
    least = (NOISE if tolerance is None else tolerance) * mean_worth(worths)
    ranks = []
    for worth in map(descending, worths):
        gone = worth < least
        if tolerance is None and len(worth):
            before = torch.cat([worth.new_tensor([least]), worth[:-1]]) / evidence
            together = worth.flip(0).cumsum(0).flip(0)
            tail = (together * TAIL < before) & (worth * ALIKE < together)
            tail[1 - LONG :] = False
            gone = (gone & ((worth * CLIFF < before) | tail)).cummax(0).values
        ranks.append(len(worth) - int((gone | (worth <= 0)).sum()))
    return ranks
