"""Draws the Rank Heatmap as a picture. Each row is a block of the model, each column a module, and
each cell shows the learned rank of a layer. For two adapters it draws both maps and their
difference.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ..adapter.lora import RankedLora
from ..adapter.rank_map import RankMap, rank_map
from .drawing import DPI, blank, pixels

WIDTH, WIDE = 1024, 1800  # pixels: width of the picture of one adapter, and of two adapters
MAP = "cividis"  # lightness grows evenly; people with any colour blindness can read it
# colours of a difference: the second adapter has a lower, the same or a higher rank
LESS, SAME, MORE = "#1f5fa8", "#f3f3f3", "#c4600d"
RANKS = "rank of the layer (grey: not adapted)"
MOST_TALL_ROWS = 24  # a map with more rows has lower rows and smaller numbers
# letters of a column's name that fit above it: those of attention do
LEVEL = 9


@dataclass(frozen=True)
class Panel:
    """Holds one map of the picture.

    grid: a number for each layer, [rows, columns]; NaN where there is no layer. ends: the numbers
    at the two ends of the colour scale. signed: whether the numbers are differences.
    """

    title: str
    grid: np.ndarray
    ends: tuple[float, float]
    signed: bool = False


def draw(
    lora: RankedLora, title: str = "Learned ranks", compare: RankedLora | None = None
) -> np.ndarray:
    """Returns the heatmap as uint8 RGB [height, width, 3]. The width is 1024 pixels, or 1800 with a
    second adapter. The height grows with the number of blocks.
    """
    tables = [rank_map(one) for one in (lora, compare) if one is not None]
    rows, columns = _union([t.rows for t in tables]), _union([t.columns for t in tables])
    grids = [table.grid(rows=rows, columns=columns) for table in tables]
    top = max(1.0, *(float(np.nanmax(grid)) for grid in grids))
    if compare is None:
        panels = [Panel("", grids[0], (0, top))]
        title = f"{title}: {_about(lora)} in fp16, {len(lora.layers)} layers"
    else:
        panels = [
            Panel(f"lora2: {_about(lora)}", grids[0], (0, top)),
            Panel(f"compare: {_about(compare)}", grids[1], (0, top)),
            _difference("compare \u2212 lora2", *grids),
        ]
    row_height, size = (0.34, 9) if len(rows) <= MOST_TALL_ROWS else (0.19, 7.5)
    width, height = WIDTH if compare is None else WIDE, max(3.2, 1.9 + row_height * len(rows))
    figure = blank(width / DPI, height, layout="constrained")
    figure.suptitle(title, fontsize=14, fontweight="bold", x=0.02, ha="left")
    axes = figure.subplots(1, len(panels), squeeze=False)[0]
    images = [
        _cells(axis, panel, rows if axis is axes[0] else [""] * len(rows), columns, size)
        for axis, panel in zip(axes, panels, strict=True)
    ]
    _scale(figure, images[0], axes[:2], RANKS)
    if compare is not None:
        _scale(figure, images[2], axes[2], "difference")
    _part_lines(axes, rows, columns)
    return pixels(figure)


def draw_cells(figure, axes, table: RankMap, size: float) -> None:
    """Draws a rank map on given axes, with its names and its colour scale.

    size: size of the letters in points.
    """
    grid = table.grid()
    panel = Panel("", grid, (0, max(1.0, float(np.nanmax(grid)))))
    image = _cells(axes, panel, table.rows, table.columns, size)
    _scale(figure, image, axes, RANKS)
    _part_lines([axes], table.rows, table.columns)


def _about(lora: RankedLora) -> str:
    return f"mean {lora.mean_rank:.1f}, {lora.megabytes():.2f} MB"


def _union(lists: list[list[str]]) -> list[str]:
    return list(dict.fromkeys(name for one in lists for name in one))


def _difference(title: str, first: np.ndarray, second: np.ndarray) -> Panel:
    """Returns a panel of the second grid minus the first. Where a layer is missing in only one of
    them, its rank there counts as 0.
    """
    apart = np.nan_to_num(second) - np.nan_to_num(first)
    apart[np.isnan(first) & np.isnan(second)] = np.nan
    most = max(1.0, float(np.nanmax(np.abs(apart))))
    return Panel(title, apart, (-most, most), signed=True)


def _cells(axes, panel: Panel, rows: list[str], columns: list[str], size: float):
    """Draws one map with a number in each cell. Returns the image that `_scale` needs."""
    from matplotlib.colors import LinearSegmentedColormap

    signed = LinearSegmentedColormap.from_list("signed", [LESS, SAME, MORE])
    low, high = panel.ends
    axes.set_facecolor("#ececec")
    axes.set_title(panel.title, fontsize=11)
    image = axes.imshow(
        panel.grid,
        cmap=signed if panel.signed else MAP,
        vmin=low,
        vmax=high,
        aspect="auto",
        interpolation="nearest",
    )
    for (y, x), value in np.ndenumerate(panel.grid):
        if not np.isnan(value):
            light = float(np.dot(image.to_rgba(value)[:3], (0.3, 0.59, 0.11)))
            text = f"{value:+.0f}" if panel.signed and value else f"{value:.0f}"
            style = {"ha": "center", "va": "center", "fontsize": size}
            colour = "white" if light < 0.5 else "black"
            axes.text(x, y, text.replace("-", "\u2212"), color=colour, **style)
    letters = 10 if not panel.title else 8
    turned = {"rotation": 40, "ha": "left"} if max(map(len, columns)) > LEVEL else {}
    axes.set_xticks(range(len(columns)), columns, fontsize=letters, **turned)
    axes.set_yticks(range(len(rows)), rows, fontsize=size + 0.5)
    axes.xaxis.tick_top()
    axes.tick_params(length=0)
    axes.set_xticks(np.arange(-0.5, len(columns)), minor=True)
    axes.set_yticks(np.arange(-0.5, len(rows)), minor=True)
    axes.grid(which="minor", color="white", linewidth=1.2)
    axes.tick_params(which="minor", length=0)
    axes.spines[:].set_visible(False)
    return image


def _scale(figure, image, axes, label: str) -> None:
    """Draws the colour scale of an image beside its axes."""
    bar = figure.colorbar(image, ax=axes, fraction=0.025, pad=0.015)
    bar.set_label(label, fontsize=10)
    bar.outline.set_visible(False)


def _part_lines(axes, rows: list[str], columns: list[str]) -> None:
    """Draws thick lines between parts of the model, such as down, mid and up, or self- and
    cross-attention.
    """
    for axis in axes:
        for names, line in ((rows, axis.axhline), (columns, axis.axvline)):
            for i in range(1, len(names)):
                if _part(names[i]) != _part(names[i - 1]):
                    line(i - 0.5, color="white", linewidth=6)


def _part(name: str) -> str:
    """Returns the part of the model that a row or column belongs to. It is the first word of its
    name: down, mid, up; self, cross; double_blocks.
    """
    return name.replace(",", " ").replace(".", " ").split(" ")[0]
