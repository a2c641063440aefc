"""What a choice of layers means before anything is trained: a summary by block, and a table."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from torch import nn

from ..adapter.layout import arrange
from ..ranks.layer_ranks import lines_of
from ..ranks.settings import RankSettings
from ..units import megabytes
from .layer import Component
from .targets import block_of, components

# blocks that a summary lists: more would not fit on a screen
MOST_ROWS = 40


@dataclass(frozen=True)
class Row:
    """A layer with its highest rank and its target rank; its weights take no memory."""

    part: Component
    target: int

    @property
    def parameters(self) -> int:
        """Returns the number of parameters at the target rank."""
        return self.target * self.part.cost


def rows(layers: Mapping[str, nn.Module], settings: RankSettings) -> dict[str, Row]:
    """Returns a Row for each chosen layer, by name. Raises ValueError where layer_ranks contradicts
    them.
    """
    lines = lines_of(settings.layer_ranks, layers)
    made = {}
    for name, part in components(layers, lines, settings.max_rank, "meta").items():
        own = lines[name].wanted(moves=settings.rules.moves) if name in lines else None
        target = settings.target_rank if own is None else own
        made[name] = Row(part, min(target, part.max_rank))
    return made


def summary(layers: Mapping[str, Row], settings: RankSettings, adaptable: int) -> str:
    """Returns lines of text: how many of the adaptable layers are chosen, their parameters, their
    size, and the layers of each block.
    """
    size = megabytes(sum(row.parameters for row in layers.values()))
    lines = [
        f"{len(layers)} of {adaptable} layers, {sum(r.part.cost for r in layers.values()):,} "
        "parameters a rank",
        f"{size:,.1f} MB (fp16) at rank {settings.target_rank}",
    ]
    if small := sum(r.part.max_rank < settings.target_rank for r in layers.values()):
        lines.append(f"{small} of them can't have that rank")
    grid = arrange(layers)
    blocks: dict[str, list[str]] = {row: [] for row in grid.rows}
    for row, column in grid.layers.values():
        blocks[row].append(column)
    listed = [f"{row or 'model'}: {', '.join(columns)}" for row, columns in blocks.items()]
    lines += listed[:MOST_ROWS]
    if len(listed) > MOST_ROWS:
        lines.append(f"and {len(listed) - MOST_ROWS} more blocks")
    return "\n".join(lines)


def table(layers: Mapping[str, Row]) -> str:
    """Returns a table with tabs, a line for each layer: its block as only_blocks takes it, name,
    shape, highest rank, target rank, and parameters of one rank and at the target rank.
    """
    lines = ["block\tlayer\tshape\thighest rank\ttarget rank\tparameters a rank\tparameters"]
    for name, row in layers.items():
        part = row.part
        numbers = f"{part.max_rank}\t{row.target}\t{part.cost}\t{row.parameters}"
        lines.append(f"{block_of(name)}\t{name}\t{shape(part)}\t{numbers}")
    return "\n".join(lines)


def shape(part: Component) -> str:
    """Returns a layer's shape as text: out x in, and a convolution's kernel."""
    channels = f"{part.channels[1]} x {part.channels[0]}"
    return channels if part.kernel is None else f"{channels} x {part.kernel[0]} x {part.kernel[1]}"
