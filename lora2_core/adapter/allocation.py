"""Chooses the rank positions that a size has room for: one auction over all layers, by worth per
parameter.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


def descending(worth: Tensor) -> Tensor:
    """Returns the worth of each position, raised to the highest worth behind it.

    A layer keeps a prefix of its positions, so a valuable one can't be had without those before it.
    """
    return worth.flip(0).cummax(0).values.flip(0)


def share_out(
    worths: Sequence[Tensor], costs: Sequence[float], parameters: float, *, fill: bool = False
) -> list[int]:
    """Returns the rank of each layer that keeps the most worth within so many parameters.

    worths: of the positions of each layer. costs: parameters of one position of each layer.
    Positions are taken by worth per parameter. Since raised worth falls along a layer, a prefix of
    each layer is taken. A layer may end at rank 0. The first position that does not fit ends it, so
    that a smaller size keeps a part of what a larger one does; with `fill`, layers of cheaper
    positions go on while there is room.
    """
    order, layer_of, cost = ranking(worths, costs)
    kept = []
    while len(order):
        sizes = cost[order].cumsum(0)
        fitting = int((sizes <= parameters).sum())
        kept.append(order[:fitting])
        if not fill:
            break
        parameters -= float(sizes[fitting - 1]) if fitting else 0.0
        order = order[fitting:]
        order = order[cost[order] <= parameters]
    return torch.bincount(layer_of[torch.cat(kept or [order])], minlength=len(worths)).tolist()


def ranking(worths: Sequence[Tensor], costs: Sequence[float]) -> tuple[Tensor, Tensor, Tensor]:
    """Returns (order, layer, cost) over the positions of all layers in a row, each (positions,).

    order, int64: the positions by falling worth per parameter. layer, int64, and cost, fp64: the
    layer and the parameters of each position, in the row's own order.
    """
    device = worths[0].device if worths else None
    lengths = torch.tensor([len(w) for w in worths], dtype=torch.int64, device=device)
    layer_of = torch.repeat_interleave(torch.arange(len(worths), device=device), lengths)
    cost = torch.tensor(list(costs), dtype=torch.float64, device=device)[layer_of]
    price = torch.cat([cost.new_zeros(0), *map(descending, worths)]) / cost
    return price.argsort(descending=True, stable=True), layer_of, cost
