"""What each rank position is worth, and the ranks that a size or a tolerance leaves.

Positions of a layer come in the singular basis of its update, the largest first; a rank keeps a
prefix. Worths are non-negative tensors (rank,), one for each layer; costs are the parameters of one
position, one number for each layer.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from ..adapter.allocation import descending

TEMPER = 0.5  # of a layer's whole worth, when layers are compared
CLIFF = 25.0  # noise: a position is worth so many times less than the one before,
TAIL = 2.0  # or all that follows a position is together worth so many times less than it,
LONG = 8  # is so many positions (the end of a short tail is always worth little),
ALIKE = 4  # and the first of them is at most such a share of it
NOISE = 0.03  # of the mean position's worth: what lies above it is never noise


def position_worth(lora_up: Tensor, second_moment: Tensor) -> Tensor:
    """Returns how much the loss would rise without a position, up to one factor for the whole
    model.

    sum_o B_oi^2 E[(dL/dB_oi)^2], (rank,), of lora_up [out, rank] and Adam's running mean of its
    squared gradient: the diagonal second-order term with the empirical Fisher information as
    curvature (LeCun, Denker, Solla 1989).
    """
    return (lora_up.square() * second_moment).sum(0)


def tempered(worth: Tensor) -> Tensor:
    """Returns a layer's worths divided by the root of their sum: between absolute comparison of
    layers (which leaves some with too little for pictures unseen in training) and none at all.
    """
    total = worth.sum()
    return worth / total**TEMPER if total > 0 else worth


def mean_worth(worths: Sequence[Tensor]) -> float:
    """Returns the worth of a typical useful position: sum w^2 / sum w, which noise hardly moves."""
    everything = torch.cat(list(worths))
    total = float(everything.sum())
    return float(everything.square().sum()) / total if total > 0 else 0.0


def above_noise(
    worths: Sequence[Tensor], tolerance: float | None = None, evidence: float = 1.0
) -> list[int]:
    """Returns the ranks without what brings nothing.

    With a tolerance: without the tails below tolerance * mean_worth. Without one: a tail goes only
    where it lies below NOISE * mean_worth and off a cliff: its first position is worth less than a
    CLIFF-th, or all of it together (LONG or more positions, much ALIKE) less than a TAIL-th, of the
    position before (of that limit, where the whole layer is the tail). Noise lies behind such a
    cliff; a spectrum that falls gently is left whole. `evidence` multiplies CLIFF and TAIL. What is
    worth nothing always goes.
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
