"""An adapter as one picture: the norm of every layer's update beside its rank."""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from ..adapter.lora import RankedLora
from ..adapter.model_order import order_key
from ..adapter.rank_map import Cell, rank_map
from .drawing import DPI, blank, pixels
from .heatmap import MAP
from .info import spread

# all in pixels
MARGIN, GAP, TITLE, SCALES = 24, 56, 50, 56
PANEL, ROW, SECTION = 560, 19, 18
LETTER = 6.1  # mean width of a character of a label
LONGEST = 40  # characters of a label
SIZE = 8.0  # points
ONLY_BLOCK = ", block 0"  # of a row whose neighbours have no other

_TEXT_ENCODER = re.compile(r"lora_te\d*|text_encoder(_\d+)?(?=\.)|text_encoders\.\w+")
PANELS: dict[str, tuple[str, Callable[[Cell], float]]] = {
    "Rank": ("", lambda cell: cell.rank),
    "Norm of the update": ("\u2016(\u03b1/r) B A\u2016, Frobenius", lambda cell: cell.norm),
}


@dataclass(frozen=True)
class Section:
    """Rows that have their columns in common; `title` is what all their names begin with."""

    title: str
    rows: list[str]
    columns: list[str]
    cells: list[Cell]

    @property
    def labels(self) -> list[str]:
        """Returns the rows' names without what they all say."""
        rows = [row.removeprefix(self.title).lstrip(".") or "\u2013" for row in self.rows]
        if all(row.endswith(ONLY_BLOCK) for row in rows):
            rows = [row.removesuffix(ONLY_BLOCK) for row in rows]
        return [short(row) for row in rows]

    @property
    def width(self) -> float:
        """Returns the width of a cell."""
        return PANEL / max(6, len(self.columns))

    @property
    def slanted(self) -> bool:
        """Returns whether the names of the columns are too long to lie flat."""
        return max(len(short(c)) for c in self.columns) * LETTER > self.width

    @property
    def header(self) -> float:
        """Returns height of the column names and the title."""
        longest = max(len(short(c)) for c in self.columns) * LETTER
        return (12 + 0.64 * longest if self.slanted else 20) + (20 if self.title else 0)


def short(text: str) -> str:
    """Returns one line of bounded length; the end of a layer's name tells more than its
    beginning.
    """
    text = " ".join(text.split())
    return text if len(text) <= LONGEST else f"\u2026{text[1 - LONGEST :]}"


def number(value: float) -> str:
    """Returns two digits that count, as short as they can be written."""
    if isinstance(value, int) or not math.isfinite(value) or value == 0:
        return f"{value:g}"
    value = float(f"{value:.1e}") if value < 10 else round(value)
    if 1e-3 <= value < 1e5:
        return f"{value:.{max(0, 1 - math.floor(math.log10(value)))}f}"
    digit, exponent = f"{value:.0e}".split("e")
    return f"{digit}e{int(exponent)}"


def sections(lora: RankedLora) -> list[Section]:
    """Returns every row in a section with the rows that share a column with it; text encoders apart
    and last, the largest sections first.
    """
    table = rank_map(lora)
    own: dict[str, list[Cell]] = {}
    for cell in table.cells:
        own.setdefault(cell.row, []).append(cell)
    groups: list[tuple[set, list[str]]] = []
    for row in table.rows:
        part = found.group() if (found := _TEXT_ENCODER.match(row)) else ""
        columns, rows = {(part, cell.column) for cell in own[row]}, [row]
        for group in [g for g in groups if g[0] & columns]:
            columns, rows = columns | group[0], group[1] + rows
            groups.remove(group)
        groups.append((columns, rows))
    out = []
    for columns, rows in groups:
        names = {column for _, column in columns}
        cells = [cell for row in rows for cell in own[row]]
        out.append(Section(beginning(rows), rows, sorted(names, key=column_key), cells))
    return sorted(
        out, key=lambda s: (1, 0) if _TEXT_ENCODER.match(s.rows[0]) else (0, -len(s.cells))
    )


def column_key(column: str) -> tuple:
    """Returns self-attention first, then cross-attention, then the rest."""
    return {"self": 0, "cross": 1}.get(column.partition(" ")[0], 2), order_key(column)


def beginning(rows: list[str]) -> str:
    """Returns the dotted path that all rows begin with, "" for none."""
    split = [row.split(".")[:-1] for row in rows]
    same = 0
    for words in zip(*split, strict=False):
        if len(set(words)) > 1:
            break
        same += 1
    return ".".join(split[0][:same])


def picture(lora: RankedLora, title: str) -> np.ndarray:
    """Returns uint8 RGB [height, width, 3]; both follow the number of rows and the length of
    names.
    """
    parts = sections(lora)
    left = MARGIN + 12 + LETTER * max(len(label) for part in parts for label in part.labels)
    width = round(left + 2 * PANEL + 2 * GAP)
    heights = [part.header + ROW * len(part.rows) + SECTION for part in parts]
    height = round(TITLE + SCALES + sum(heights) + MARGIN)
    figure = blank(width / DPI, height / DPI)
    axes = figure.add_axes((0, 0, 1, 1), xlim=(0, width), ylim=(height, 0))
    axes.set_axis_off()
    write(axes, MARGIN, 30, short(title), size=14, weight="bold")
    ranks = list(lora.ranks.values())
    said = f"{len(ranks)} layers, {spread(ranks)}, {lora.megabytes():.2f} MB in fp16"
    write(axes, MARGIN, 52, said, colour="#555555")
    for i, (name, (meaning, value)) in enumerate(PANELS.items()):
        x, y = left + i * (PANEL + GAP), TITLE + SCALES
        values = [value(cell) for part in parts for cell in part.cells]
        top = max((v for v in values if math.isfinite(v)), default=0) or 1
        draw_scale(axes, x, y - 22, name, meaning, top)
        for part, tall in zip(parts, heights, strict=True):
            draw_section(axes, part, x, y, top, value, labelled=i == 0)
            y += tall
    return pixels(figure)


def write(axes, x, y, text, *, size=SIZE, weight="normal", colour="black", **kwargs) -> None:
    """Text as it is: a name may hold signs that would start a formula."""
    axes.text(
        x, y, text, fontsize=size, fontweight=weight, color=colour, parse_math=False, **kwargs
    )


def draw_scale(axes, x: float, y: float, name: str, meaning: str, top: float) -> None:
    """Draws a panel's name, and its colours from 0 to `top`."""
    write(axes, x, y, name, size=11, weight="bold", va="center")
    write(axes, x + 10 + 9.5 * len(name), y, meaning, va="center", colour="#555555")
    start, end = x + PANEL - 190, x + PANEL - 40
    axes.pcolormesh(
        np.linspace(start, end, 129), [y - 5, y + 5], np.linspace(0, 1, 128)[None], cmap=MAP
    )
    write(axes, start - 5, y, "0", ha="right", va="center")
    write(axes, end + 5, y, number(top), ha="left", va="center")


def draw_section(axes, part: Section, x, y, top, value, labelled: bool) -> None:
    """Draws a grid with its names; y is the upper edge."""
    if part.title and labelled:
        write(axes, MARGIN, y + 12, short(part.title), size=9, weight="bold")
    y += part.header
    xs = x + part.width * np.arange(len(part.columns) + 1)
    ys = y + ROW * np.arange(len(part.rows) + 1)
    axes.fill_between(xs[[0, -1]], ys[0], ys[-1], color="#ececec", linewidth=0)
    grid = np.full((len(part.rows), len(part.columns)), np.nan)
    size = SIZE if part.width >= 30 else 6.0
    for cell in part.cells:
        row, column, found = part.rows.index(cell.row), part.columns.index(cell.column), value(cell)
        grid[row, column] = found
        colour = "white" if found < 0.55 * top else "black"
        place = xs[column] + part.width / 2, ys[row] + ROW / 2
        write(axes, *place, number(found), size=size, colour=colour, ha="center", va="center")
    shown = np.ma.masked_invalid(grid)
    axes.pcolormesh(xs, ys, shown, cmap=MAP, vmin=0, vmax=top, edgecolors="white", linewidth=0.8)
    turn = {"rotation": 40, "ha": "left", "rotation_mode": "anchor"} if part.slanted else {}
    for column, start in zip(part.columns, xs, strict=False):
        write(axes, start + part.width / 2, y - 6, short(column), **({"ha": "center"} | turn))
    if labelled:
        for label, start in zip(part.labels, ys, strict=False):
            write(axes, x - 8, start + ROW / 2, label, ha="right", va="center")
