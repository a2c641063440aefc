"""An adapter as one picture: a map of the layers' ranks beside a map of their norms."""

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

# sizes in pixels
MARGIN, GAP, TITLE, SCALES = 24, 56, 50, 56
PANEL, ROW, SECTION = 560, 19, 18
LETTER = 6.1  # mean width of a character of a label
LONGEST = 40  # characters of a label
SIZE = 8.0  # of letters, in points
ONLY_BLOCK = ", block 0"  # ends the name of a row; says nothing where all rows end so

_TEXT_ENCODER = re.compile(r"lora_te\d*|text_encoder(_\d+)?(?=\.)|text_encoders\.\w+")
# name of a map -> (its unit, the number that it shows of a layer)
PANELS: dict[str, tuple[str, Callable[[Cell], float]]] = {
    "Rank": ("", lambda cell: cell.rank),
    "Norm of the update": ("\u2016(\u03b1/r) B A\u2016, Frobenius", lambda cell: cell.norm),
}


@dataclass(frozen=True)
class Section:
    """Rows that share their columns. title: what the names of all of them begin with."""

    title: str
    rows: list[str]
    columns: list[str]
    cells: list[Cell]

    @property
    def labels(self) -> list[str]:
        """Returns the names of the rows without the words that all of them have."""
        rows = [row.removeprefix(self.title).lstrip(".") or "\u2013" for row in self.rows]
        if all(row.endswith(ONLY_BLOCK) for row in rows):
            rows = [row.removesuffix(ONLY_BLOCK) for row in rows]
        return [short(row) for row in rows]

    @property
    def width(self) -> float:
        """Returns the width of a cell in pixels."""
        return PANEL / max(6, len(self.columns))

    @property
    def slanted(self) -> bool:
        """Returns whether a column's name is wider than a cell, so that names are slanted."""
        return max(len(short(c)) for c in self.columns) * LETTER > self.width

    @property
    def header(self) -> float:
        """Returns the height of the title and the column names in pixels."""
        longest = max(len(short(c)) for c in self.columns) * LETTER
        return (12 + 0.64 * longest if self.slanted else 20) + (20 if self.title else 0)


def short(text: str) -> str:
    """Returns a text on one line, cut at its beginning where it is long: the end of a layer's name
    says more.
    """
    text = " ".join(text.split())
    return text if len(text) <= LONGEST else f"\u2026{text[1 - LONGEST :]}"


def number(value: float) -> str:
    """Returns a number as text with two significant digits, as short as possible."""
    if isinstance(value, int) or not math.isfinite(value) or value == 0:
        return f"{value:g}"
    value = float(f"{value:.1e}") if value < 10 else round(value)
    if 1e-3 <= value < 1e5:
        return f"{value:.{max(0, 1 - math.floor(math.log10(value)))}f}"
    digit, exponent = f"{value:.0e}".split("e")
    return f"{digit}e{int(exponent)}"


def sections(lora: RankedLora) -> list[Section]:
    """Returns the sections of an adapter's map: rows that share a column are in the same one. The
    largest come first, and those of text encoders last.
    """
    table = rank_map(lora)
    own: dict[str, list[Cell]] = {}
    for cell in table.cells:
        own.setdefault(cell.row, []).append(cell)
    groups: list[tuple[set, list[str]]] = []
    for row in table.rows:
        encoder = _TEXT_ENCODER.match(row)
        part = encoder.group() if encoder else ""
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
    """Returns the key by which columns sort: self-attention, cross-attention, the rest."""
    return {"self": 0, "cross": 1}.get(column.partition(" ")[0], 2), order_key(column)


def beginning(rows: list[str]) -> str:
    """Returns the dotted path that all rows begin with; "" where there is none."""
    split = [row.split(".")[:-1] for row in rows]
    same = 0
    for words in zip(*split, strict=False):
        if len(set(words)) > 1:
            break
        same += 1
    return ".".join(split[0][:same])


def picture(lora: RankedLora, title: str) -> np.ndarray:
    """Returns the picture as uint8 RGB [height, width, 3]. The size depends on the number of rows
    and on the length of their names.
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
    facts = f"{len(ranks)} layers, {spread(ranks)}, {lora.megabytes():.2f} MB in fp16"
    write(axes, MARGIN, 52, facts, colour="#555555")
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
    """Draws a text. It is never read as a formula, whatever signs a name holds."""
    axes.text(
        x, y, text, fontsize=size, fontweight=weight, color=colour, parse_math=False, **kwargs
    )


def draw_scale(axes, x: float, y: float, name: str, meaning: str, top: float) -> None:
    """Draws the name of a map and the scale of its colours, from 0 to `top`."""
    write(axes, x, y, name, size=11, weight="bold", va="center")
    write(axes, x + 10 + 9.5 * len(name), y, meaning, va="center", colour="#555555")
    start, end = x + PANEL - 190, x + PANEL - 40
    axes.pcolormesh(
        np.linspace(start, end, 129), [y - 5, y + 5], np.linspace(0, 1, 128)[None], cmap=MAP
    )
    write(axes, start - 5, y, "0", ha="right", va="center")
    write(axes, end + 5, y, number(top), ha="left", va="center")


def draw_section(axes, part: Section, x, y, top, value, labelled: bool) -> None:
    """Draws the grid of a section with its names; y: the upper edge, in pixels."""
    if part.title and labelled:
        write(axes, MARGIN, y + 12, short(part.title), size=9, weight="bold")
    y += part.header
    xs = x + part.width * np.arange(len(part.columns) + 1)
    ys = y + ROW * np.arange(len(part.rows) + 1)
    axes.fill_between(xs[[0, -1]], ys[0], ys[-1], color="#ececec", linewidth=0)
    grid = np.full((len(part.rows), len(part.columns)), np.nan)
    size = SIZE if part.width >= 30 else 6.0
    for cell in part.cells:
        row, column = part.rows.index(cell.row), part.columns.index(cell.column)
        grid[row, column] = shown = value(cell)
        colour = "white" if shown < 0.55 * top else "black"
        centre = xs[column] + part.width / 2, ys[row] + ROW / 2
        write(axes, *centre, number(shown), size=size, colour=colour, ha="center", va="center")
    cells = np.ma.masked_invalid(grid)
    axes.pcolormesh(xs, ys, cells, cmap=MAP, vmin=0, vmax=top, edgecolors="white", linewidth=0.8)
    turn = {"rotation": 40, "ha": "left", "rotation_mode": "anchor"} if part.slanted else {}
    for column, start in zip(part.columns, xs, strict=False):
        write(axes, start + part.width / 2, y - 6, short(column), **({"ha": "center"} | turn))
    if labelled:
        for label, start in zip(part.labels, ys, strict=False):
            write(axes, x - 8, start + ROW / 2, label, ha="right", va="center")
