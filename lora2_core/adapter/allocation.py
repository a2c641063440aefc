"""Which rank positions of all layers are kept within a size: one auction by worth per parameter."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


def descending(worth: Tensor) -> Tensor:
    """Returns worths in which each position counts as much as the best one behind it: a prefix
    can't skip positions.
    """
    return worth.flip(0).cummax(0).values.flip(0)


def share_out(worths: Sequence[Tensor], costs: Sequence[float], parameters: float) -> list[int]:
    """Returns the ranks that keep the most worth within so many parameters: one auction over all
    layers.

    Positions are taken by worth per parameter; since worth falls along a layer, what is taken is a
    prefix of each. A layer may end at rank 0.
    """
    order, layer_of, cost = ranking(worths, costs)
    kept = order[cost[order].cumsum(0) <= parameters]
    return torch.bincount(layer_of[kept], minlength=len(worths)).tolist()


def ranking(worths: Sequence[Tensor], costs: Sequence[float]) -> tuple[Tensor, Tensor, Tensor]:
    """Returns all positions of all layers, the most worth a parameter first: (order, layer, cost),
    int64, int64 and fp64, each (positions,); layer and cost are indexed by the order's values.
    """
    device = worths[0].device
    lengths = torch.tensor([len(w) for w in worths], device=device)
    layer_of = torch.repeat_interleave(torch.arange(len(worths), device=device), lengths)
    cost = torch.tensor(list(costs), dtype=torch.float64, device=device)[layer_of]
    price = torch.cat([descending(w) for w in worths]) / cost
    return price.argsort(descending=True, stable=True), layer_of, cost
