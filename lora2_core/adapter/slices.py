"""Splits the update of a weight into those of parts of its rows, and joins such, both exact."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch

from .lora import LoraLayer

# share of a layer's largest energy below which a position is only the rounding of fp32
NEGLIGIBLE = 1e-13


def part(layers: Sequence[tuple[int, LoraLayer]], start: int, rows: int) -> LoraLayer | None:
    """Returns the update of `rows` rows of a weight from row `start` on; None where no layer holds
    some of them.

    layers: those of the weight that hold some of these rows, each with its first row. Rows that
    none of them holds aren't changed.
    """
    used = [(at, layer) for at, layer in layers if at < start + rows and start < at + len(layer.up)]
    if not used:
        return None
    if len(used) == 1:
        at, layer = used[0]
        if at == start and len(layer.up) == rows:
            return layer
    width = sum(layer.rank for _, layer in used)
    up = torch.zeros(rows, width)
    column = 0
    for at, layer in used:
        low, high = max(start, at), min(start + rows, at + len(layer.up))
        up[low - start : high - start, column : column + layer.rank] = layer.up[
            low - at : high - at
        ]
        column += layer.rank
    down = torch.cat([layer.down for _, layer in used])
    joined = replace(used[0][1], up=up, down=down)
    return trimmed(joined.rotated()) if width else joined


def trimmed(layer: LoraLayer) -> LoraLayer:
    """Returns a layer in its singular basis without positions that are only rounding."""
    energy = layer.energy
    return layer.first(int((energy > NEGLIGIBLE * energy.max()).sum()))


def swapped(layer: LoraLayer) -> LoraLayer:
    """Returns the update with the two halves of its rows the other way round."""
    first, second = layer.up.chunk(2)
    return replace(layer, up=torch.cat([second, first]))
