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

# noise begins where worth falls this many times as far to a position as over the next two
CLIFF = 6.0
# and the position is worth no more than this share of mean_worth
NOISE = 0.03
# the most times its share of the layer's energy that a position has of the layer's worth
ENERGY = 30.0


def position_worth(lora_up: Tensor, second_moment: Tensor) -> Tensor:
    """Returns how much the loss would rise without each position, (rank,), up to a factor that all
    layers share: sum_o B_oi^2 E[(dL/dB_oi)^2].

    lora_up is B, [out, rank], or those of several layers in front of each other; second_moment is
    Adam's running mean of its squared gradient. This is the diagonal second-order term, with the
    empirical Fisher information as curvature (LeCun, Denker, Solla 1989).

    Where a rank is nearly the width of its layer, lora_down is nearly singular. Its last directions
    then get mean squares that are millions of times too large, since these are turned as if the
    gradients of different positions were uncorrelated. So no position's share of its layer's worth
    is more than ENERGY times its share of the energy sum_o B_oi^2, which is of the update itself.
    """
    squares = lora_up.square()
    worth, energy = (squares * second_moment).sum(-2), squares.sum(-2)
    shares = energy / energy.sum(-1, keepdim=True).clamp(min=torch.finfo(energy.dtype).tiny)
    return worth.minimum(ENERGY * shares * worth.sum(-1, keepdim=True))


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


def above_noise(
    worths: Sequence[Tensor],
    tolerance: float | None = None,
    lost: Sequence[Sequence[float]] | None = None,
) -> list[int]:
    """Returns the rank of each layer without its noise.

    With a tolerance, the positions below tolerance * mean_worth are cut off. Without one, positions
    are cut off only where they lie below NOISE * mean_worth and behind a cliff: worth falls CLIFF
    times as far to the first of them as from there over the next two. A lone signal behind a
    cliff has a second cliff behind it, and stays. A whole layer goes where NOISE * mean_worth is a
    cliff above it and it has none inside. Worths that fall gently are kept uncut. Positions that
    are worth nothing are always cut off.

    lost: the worths of the positions that each layer has given back, with which it is judged.
    """
    least = (NOISE if tolerance is None else tolerance) * mean_worth(worths)
    ranks = []
    for kept, gone in zip(map(descending, worths), lost or [()] * len(worths), strict=True):
        signal = int((kept > 0).sum())
        if tolerance is not None:
            signal = min(signal, int((kept >= least).sum()))
        elif signal:
            signal = before_noise(kept[:signal], kept.new_tensor(gone), least)
        ranks.append(signal)
    return ranks


def before_noise(worth: Tensor, lost: Tensor, least: float) -> int:
    """Returns how many positions of a layer come before noise, 0 where all is noise.

    worth: falling, (positions,), above 0. lost: of positions that it has given back. least: noise
    is worth less.
    """
    tail = torch.cat([worth, lost.clamp(max=float(worth[-1]))])
    to_it = torch.cat([tail.new_tensor([least]), tail[:-1]]) / tail
    after_it = tail / torch.cat([tail, tail.new_zeros(2)])[2:]
    cliff = to_it > CLIFF * after_it
    if found := (cliff & (tail < least))[1:].nonzero().flatten().tolist():
        return min(len(worth), 1 + found[0])
    return 0 if cliff[0] else len(worth)
