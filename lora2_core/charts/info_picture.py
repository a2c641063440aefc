"""An adapter as one picture: the norm of every layer's update beside its rank."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np

from ..adapter.lora import RankedLora
from ..adapter.rank_map import Cell, rank_map
from ..adapter.sections import Section, sections
from .drawing import DPI, blank, pixels
from .heatmap import MAP
from .info import spread

# all in pixels
MARGIN, GAP, TITLE, SCALES = 24, 56, 50, 56
PANEL, ROW, SECTION = 560, 19, 18
LETTER = 6.1  # mean width of a character of a label
LONGEST = 40  # characters of a label
SIZE = 8.0  # points, of the letters

PANELS: dict[str, tuple[str, Callable[[Cell], float]]] = {
    "Rank": ("", lambda cell: cell.rank),
    "Norm of the update": ("\u2016(\u03b1/r) B A\u2016, Frobenius", lambda cell: cell.norm),
}


def cell_width(part: Section) -> float:
    """Returns the width of a section's cells in pixels."""
    return PANEL / max(6, len(part.columns))


def name_width(part: Section) -> float:
    """Returns the width of a section's longest column name in pixels."""
    return max(len(short(column)) for column in part.columns) * LETTER


def slanted(part: Section) -> bool:
    """Returns whether the names of the columns are too long to lie flat."""
    return name_width(part) > cell_width(part)


def header_height(part: Section) -> float:
    """Returns the height of the column names and the title in pixels."""
    names = 12 + 0.64 * name_width(part) if slanted(part) else 20
    return names + (20 if part.title else 0)


def short(text: str) -> str:
    """Returns a text as one line of at most 40 characters, cut at its beginning: the end of a
    layer's name says more.
    """
    text = " ".join(text.split())
    return text if len(text) <= LONGEST else f"\u2026{text[1 - LONGEST :]}"


def number(value: float) -> str:
    """Returns a number with two significant digits, as short as it can be written."""
    if isinstance(value, int) or not math.isfinite(value) or value == 0:
        return f"{value:g}"
    value = float(f"{value:.1e}") if value < 10 else round(value)
    if 1e-3 <= value < 1e5:
        return f"{value:.{max(0, 1 - math.floor(math.log10(value)))}f}"
    digit, exponent = f"{value:.0e}".split("e")
    return f"{digit}e{int(exponent)}"


def picture(lora: RankedLora, title: str) -> np.ndarray:
    """Returns the picture, uint8 RGB [height, width, 3]; more rows make it higher, longer names
    wider.
    """
    parts = sections(rank_map(lora))
    labels = (short(label) for part in parts for label in part.labels)
    left = MARGIN + 12 + LETTER * max(map(len, labels), default=0)
    width = round(left + 2 * PANEL + 2 * GAP)
    heights = [header_height(part) + ROW * len(part.rows) + SECTION for part in parts]
    height = round(TITLE + SCALES + sum(heights) + MARGIN)
    figure = blank(width / DPI, height / DPI)
    axes = figure.add_axes((0, 0, 1, 1), xlim=(0, width), ylim=(height, 0))
    axes.set_axis_off()
    write(axes, MARGIN, 30, short(title), size=14, weight="bold")
    ranks = list(lora.ranks.values())
    subtitle = f"{len(ranks)} layers, {spread(ranks)}, {lora.megabytes():.2f} MB in fp16"
    write(axes, MARGIN, 52, subtitle, colour="#555555")
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
    """Writes a text as it is: a name may hold signs that would start a formula."""
    axes.text(
        x, y, text, fontsize=size, fontweight=weight, color=colour, parse_math=False, **kwargs
    )


def draw_scale(axes, x: float, y: float, name: str, meaning: str, top: float) -> None:
    """Draws a panel's name, and its colour scale from 0 to `top`."""
    write(axes, x, y, name, size=11, weight="bold", va="center")
    write(axes, x + 10 + 9.5 * len(name), y, meaning, va="center", colour="#555555")
    start, end = x + PANEL - 190, x + PANEL - 40
    axes.pcolormesh(
        np.linspace(start, end, 129), [y - 5, y + 5], np.linspace(0, 1, 128)[None], cmap=MAP
    )
    write(axes, start - 5, y, "0", ha="right", va="center")
    write(axes, end + 5, y, number(top), ha="left", va="center")


def draw_section(axes, part: Section, x, y, top, value, labelled: bool) -> None:
    """Draws one section with its names; y is its upper edge, the title included."""
    if part.title and labelled:
        write(axes, MARGIN, y + 12, short(part.title), size=9, weight="bold")
    y += header_height(part)
    width = cell_width(part)
    xs = x + width * np.arange(len(part.columns) + 1)
    ys = y + ROW * np.arange(len(part.rows) + 1)
    axes.fill_between(xs[[0, -1]], ys[0], ys[-1], color="#ececec", linewidth=0)
    size = SIZE if width >= 30 else 6.0
    for cell in part.cells:
        middle = (
            xs[part.columns.index(cell.column)] + width / 2,
            ys[part.rows.index(cell.row)] + ROW / 2,
        )
        colour = "white" if value(cell) < 0.55 * top else "black"
        text = number(value(cell))
        write(axes, *middle, text, size=size, colour=colour, ha="center", va="center")
    shown = np.ma.masked_invalid(part.grid(value))
    axes.pcolormesh(xs, ys, shown, cmap=MAP, vmin=0, vmax=top, edgecolors="white", linewidth=0.8)
    turn = {"rotation": 40, "ha": "left", "rotation_mode": "anchor"} if slanted(part) else {}
    for column, start in zip(part.columns, xs, strict=False):
        write(axes, start + width / 2, y - 6, short(column), **({"ha": "center"} | turn))
    if labelled:
        for label, start in zip(part.labels, ys, strict=False):
            write(axes, x - 8, start + ROW / 2, short(label), ha="right", va="center")
