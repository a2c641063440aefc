"""What a choice of layers comes to, before anything is trained: a summary by block and a table."""

from __future__ import annotations

from collections.abc import Mapping

from torch import nn

from .layer import Component
from .layer_ranks import ranks_of
from .rank_map import arrange
from .settings import BYTES_PER_PARAMETER, MEGABYTE, RankSettings

MOST_ROWS = 40  # blocks that a summary lists


def components(found: Mapping[str, nn.Module], settings: RankSettings) -> dict[str, Component]:
    """The layers with their highest ranks, without memory for weights."""
    own = ranks_of(settings.layer_ranks, found)
    return {
        name: Component(module, own.get(name, settings.max_rank), "meta")
        for name, module in found.items()
    }


def summary(parts: Mapping[str, Component], settings: RankSettings, adaptable: int) -> str:
    """How many of all adaptable layers, parameters, size, and the layers of each block."""
    cost = sum(c.cost for c in parts.values())
    rank = settings.target_rank
    size = (
        BYTES_PER_PARAMETER / MEGABYTE * sum(c.cost * min(rank, c.max_rank) for c in parts.values())
    )
    lines = [
        f"{len(parts)} of {adaptable} layers, {cost:,} parameters a rank",
        f"{size:,.1f} MB (fp16) at rank {rank}",
    ]
    places = arrange(parts)
    rows: dict[str, list[str]] = {row: [] for row in places.rows}
    for row, column in places.layers.values():
        rows[row].append(column)
    lines += [f"{row or 'model'}: {', '.join(columns)}" for row, columns in rows.items()][
        :MOST_ROWS
    ]
    if len(rows) > MOST_ROWS:
        lines.append(f"and {len(rows) - MOST_ROWS} more blocks")
    return "\n".join(lines)


def table(parts: Mapping[str, Component]) -> str:
    """A line a layer: name, shape, the highest rank and the parameters of one rank."""
    head = "layer\tshape\thighest rank\tparameters a rank"
    lines = [f"{name}\t{shape(part)}\t{part.max_rank}\t{part.cost}" for name, part in parts.items()]
    return "\n".join([head, *lines])


def shape(part: Component) -> str:
    """out x in, and a convolution's kernel."""
    channels = f"{part.channels[1]} x {part.channels[0]}"
    return channels if part.kernel is None else f"{channels} x {part.kernel[0]} x {part.kernel[1]}"
