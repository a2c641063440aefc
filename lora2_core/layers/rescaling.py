"""Keeps the updates of many layers as they are while Lambda changes, with a few operations."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from .folding import alike, behind
from .layer import Component
from .moments import Moments, turned


@torch.no_grad()
def rescale(
    layers: Sequence[Component], rows: Sequence[int], ratio: Tensor, moments: Moments
) -> None:
    """Divides lora_up of the layers of these rows by `ratio` [layers, positions], by which Lambda
    was multiplied, so that the updates stay; the optimizer's moments follow.
    """
    for group in alike([layers[row].capacity for row in rows], ratio.device):
        some = [rows[i] for i in group]
        ups = [layers[row].lora_up for row in some]
        torch._foreach_div_(ups, columns(layers, some, ratio))
        kept = [moments(up) for up in ups]
        for name in sorted({name for each in kept for name in each}):
            there = [i for i, each in enumerate(kept) if name in each]
            factors = turned(name, ratio, 1 / ratio, kept[there[0]][name])
            torch._foreach_mul_(
                [kept[i][name] for i in there], columns(layers, [some[i] for i in there], factors)
            )


def columns(layers: Sequence[Component], rows: Sequence[int], factors: Tensor) -> Sequence[Tensor]:
    """Returns the factors of every layer's positions in the shape of its lora_up; all these layers
    have the same capacity.
    """
    shapes = {row: layers[row].lora_up.shape for row in rows}
    parts = [factors[row, :width].expand(out, width) for row, (out, width) in shapes.items()]
    return behind(parts).split([out for out, _ in shapes.values()])
