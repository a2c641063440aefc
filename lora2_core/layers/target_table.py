"""What a choice of layers means before anything is trained: a summary by block, and a table."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from torch import nn

from ..adapter.layout import arrange
from ..ranks.layer_ranks import lines_of
from ..ranks.settings import RankSettings
from ..units import megabytes
from .layer import Component, is_adaptable
from .structure import KINDS, OUTSIDE, Place
from .targets import block_of, components, places

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


def summary(
    layers: Mapping[str, Row], settings: RankSettings, adaptable: int, found: str = ""
) -> str:
    """Returns lines of text: how many of the adaptable layers are chosen, their parameters, their
    size, the `kinds` that were found, and the layers of each block.
    """
    size = megabytes(sum(row.parameters for row in layers.values()))
    lines = [
        f"{len(layers)} of {adaptable} layers, {sum(r.part.cost for r in layers.values()):,} "
        "parameters a rank",
        f"{size:,.1f} MB (fp16) at rank {settings.target_rank}",
    ]
    if small := sum(r.part.max_rank < settings.target_rank for r in layers.values()):
        lines.append(f"{small} of them can't have that rank")
    if found:
        lines.append(found)
    grid = arrange(layers)
    blocks: dict[str, list[str]] = {row: [] for row in grid.rows}
    for row, column in grid.layers.values():
        blocks[row].append(column)
    listed = [f"{row or 'model'}: {', '.join(columns)}" for row, columns in blocks.items()]
    lines += listed[:MOST_ROWS]
    if len(listed) > MOST_ROWS:
        lines.append(f"and {len(listed) - MOST_ROWS} more blocks")
    return "\n".join(lines)


def kinds(model: nn.Module, chosen: Iterable[str]) -> str:
    """Returns two lines of text: how many layers of each kind are chosen, and how many are not; of
    these also those that can't have an adapter.
    """
    found, modules = places(model), dict(model.named_modules())
    taken = set(chosen)
    left = [n for n in found if n not in taken and is_adaptable(modules[n])]
    unable = sum(not is_adaptable(modules[n]) for n in found)
    lines = [f"chosen: {counted(found[n] for n in found if n in taken)}"]
    if left:
        lines.append(f"left out: {counted(found[n] for n in left)}")
    if unable:
        lines.append(f"{unable} convolutions in one or three dimensions, or in groups: not trained")
    return "\n".join(lines)


def counted(found: Iterable[Place]) -> str:
    """Returns the number of layers of each kind as text."""
    numbers = Counter(place.kind for place in found)
    return ", ".join(f"{numbers[kind]} {kind}" for kind in KINDS if numbers[kind])


def table(layers: Mapping[str, Row], found: Mapping[str, Place]) -> str:
    """Returns a table with tabs, a line for each layer: its block as only_blocks takes it, name,
    shape, highest rank, target rank, parameters of one rank and at the target rank, what it is for,
    and what its weight holds where several are one.
    """
    head = "block\tlayer\tshape\thighest rank\ttarget rank\tparameters a rank\tparameters"
    lines = [f"{head}\tkind\tholds"]
    for name, row in layers.items():
        part, place = row.part, found.get(name, Place(OUTSIDE))
        numbers = f"{part.max_rank}\t{row.target}\t{part.cost}\t{row.parameters}"
        what = f"{place.kind}\t{place.holds}"
        lines.append(f"{block_of(name)}\t{name}\t{shape(part)}\t{numbers}\t{what}")
    return "\n".join(lines)


def shape(part: Component) -> str:
    """Returns a layer's shape as text: out x in, and a convolution's kernel."""
    channels = f"{part.channels[1]} x {part.channels[0]}"
    return channels if part.kernel is None else f"{channels} x {part.kernel[0]} x {part.kernel[1]}"
