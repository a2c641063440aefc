"""The worth of each rank position to the loss, and the ranks that remain without noise.

The positions of a layer are the singular directions of its update, largest first; a rank keeps the
first of them. `worths` holds one non-negative tensor (rank,) for each layer.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from ..adapter.allocation import descending

# Chosen on planted ranks; `bench-ranks --only G --constants` shows other values.

# noise begins where a position is worth this many times less than the one before it, if
CLIFF = 25.0
# it is worth less than this share of mean_worth
NOISE = 0.03


def position_worth(lora_up: Tensor, second_moment: Tensor) -> Tensor:
    """Returns how much the loss would rise without each position, (rank,), up to a factor that all
    layers share: sum_o B_oi^2 E[(dL/dB_oi)^2].

    lora_up is B, [out, rank]; second_moment is Adam's running mean of its squared gradient. This is
    the diagonal second-order term, with the empirical Fisher information as curvature (LeCun,
    Denker, Solla 1989).
    """
    return (lora_up.square() * second_moment).sum(0)


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
    are cut off only where they lie below NOISE * mean_worth and behind a cliff: the first of them
    is worth less than 1 / CLIFF of the position before. For the first position of a layer, NOISE *
    mean_worth stands for the position before. Noise looks like that; worths that fall gently are
    kept uncut. Positions that are worth nothing are always cut off.
    """
    least = (NOISE if tolerance is None else tolerance) * mean_worth(worths)
    ranks = []
    for worth in map(descending, worths):
        gone = worth < least
        if tolerance is None and len(worth):
            before = torch.cat([worth.new_tensor([least]), worth[:-1]])
            gone = (gone & (worth * CLIFF < before)).cummax(0).values
        ranks.append(len(worth) - int((gone | (worth <= 0)).sum()))
    return ranks
