"""What a choice of layers comes to, before anything is trained: a summary by block and a table."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from torch import nn

from ..adapter.rank_map import arrange
from ..ranks.layer_ranks import lines_of
from ..ranks.settings import RankSettings
from ..units import BYTES_PER_PARAMETER, MEGABYTE
from .layer import Component
from .targets import block_of, components

MOST_ROWS = 40  # blocks that a summary lists


@dataclass(frozen=True)
class Row:
    """A layer with its highest rank and its target rank, without memory for weights."""

    part: Component
    target: int

    @property
    def parameters(self) -> int:
        """Returns the parameters at the target rank."""
        return self.target * self.part.cost


def rows(found: Mapping[str, nn.Module], settings: RankSettings) -> dict[str, Row]:
    """Returns the chosen layers by name; ValueError where layer_ranks contradicts them."""
    lines = lines_of(settings.layer_ranks, found)
    made = {}
    for name, part in components(found, lines, settings.max_rank, "meta").items():
        own = lines[name].wanted(moves=settings.rules.moves) if name in lines else None
        target = settings.target_rank if own is None else own
        made[name] = Row(part, min(target, part.max_rank))
    return made


def summary(found: Mapping[str, Row], settings: RankSettings, adaptable: int) -> str:
    """Returns how many of all adaptable layers, parameters, size, and the layers of each block."""
    size = BYTES_PER_PARAMETER / MEGABYTE * sum(row.parameters for row in found.values())
    lines = [
        f"{len(found)} of {adaptable} layers, {sum(r.part.cost for r in found.values()):,} "
        "parameters a rank",
        f"{size:,.1f} MB (fp16) at rank {settings.target_rank}",
    ]
    if small := sum(r.part.max_rank < settings.target_rank for r in found.values()):
        lines.append(f"{small} of them can't have that rank")
    places = arrange(found)
    blocks: dict[str, list[str]] = {row: [] for row in places.rows}
    for row, column in places.layers.values():
        blocks[row].append(column)
    listed = [f"{row or 'model'}: {', '.join(columns)}" for row, columns in blocks.items()]
    lines += listed[:MOST_ROWS]
    if len(listed) > MOST_ROWS:
        lines.append(f"and {len(listed) - MOST_ROWS} more blocks")
    return "\n".join(lines)


def table(found: Mapping[str, Row]) -> str:
    """Returns a line a layer: its block as only_blocks takes it, name, shape, highest rank, target
    rank, and the parameters of one rank and at the target.
    """
    lines = ["block\tlayer\tshape\thighest rank\ttarget rank\tparameters a rank\tparameters"]
    for name, row in found.items():
        part = row.part
        numbers = f"{part.max_rank}\t{row.target}\t{part.cost}\t{row.parameters}"
        lines.append(f"{block_of(name)}\t{name}\t{shape(part)}\t{numbers}")
    return "\n".join(lines)


def shape(part: Component) -> str:
    """Returns out x in, and a convolution's kernel."""
    channels = f"{part.channels[1]} x {part.channels[0]}"
    return channels if part.kernel is None else f"{channels} x {part.kernel[0]} x {part.kernel[1]}"
