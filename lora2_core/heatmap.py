"""The Rank Heatmap as a picture: blocks down, modules across, the learned rank in every cell."""

from __future__ import annotations

import numpy as np

from .lora import RankedLora
from .rank_map import RankMap, rank_map

WIDTH = 1024  # pixels
DPI = 100
MAP = "cividis"  # even in lightness and safe for every kind of colour blindness


def draw(lora: RankedLora, title: str = "Learned ranks") -> np.ndarray:
    """uint8 RGB [height, 1024, 3]; the height follows the number of blocks."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    table = rank_map(lora)
    row_height = 0.34 if len(table.rows) <= 24 else 0.19
    height = max(3.2, 1.9 + row_height * len(table.rows))
    figure = Figure(figsize=(WIDTH / DPI, height), dpi=DPI, facecolor="white", layout="constrained")
    canvas = FigureCanvasAgg(figure)
    figure.suptitle(
        f"{title}: mean {lora.mean_rank:.1f}, {lora.megabytes():.2f} MB in fp16, "
        f"{len(table.cells)} layers",
        fontsize=14, fontweight="bold", x=0.02, ha="left",
    )  # fmt: skip
    axes = figure.add_subplot()
    draw_cells(figure, axes, table, 9 if row_height > 0.3 else 7.5)
    canvas.draw()
    return np.asarray(canvas.buffer_rgba())[..., :3].copy()


def draw_cells(figure, axes, table: RankMap, size: float) -> None:
    """The grid with its names and its scale; `size` of letters in points."""
    grid = np.full((len(table.rows), len(table.columns)), np.nan)
    for cell in table.cells:
        grid[table.rows.index(cell.row), table.columns.index(cell.column)] = cell.rank
    top = max(1.0, float(np.nanmax(grid)))
    axes.set_facecolor("#ececec")
    image = axes.imshow(grid, cmap=MAP, vmin=0, vmax=top, aspect="auto", interpolation="nearest")
    for (y, x), rank in np.ndenumerate(grid):
        if not np.isnan(rank):
            colour = "white" if rank < 0.55 * top else "black"
            axes.text(x, y, f"{rank:.0f}", ha="center", va="center", fontsize=size, color=colour)
    axes.set_xticks(range(len(table.columns)), table.columns, fontsize=10)
    axes.set_yticks(range(len(table.rows)), table.rows, fontsize=size + 0.5)
    axes.xaxis.tick_top()
    axes.tick_params(length=0)
    axes.set_xticks(np.arange(-0.5, len(table.columns)), minor=True)
    axes.set_yticks(np.arange(-0.5, len(table.rows)), minor=True)
    axes.grid(which="minor", color="white", linewidth=1.2)
    axes.tick_params(which="minor", length=0)
    axes.spines[:].set_visible(False)
    bar = figure.colorbar(image, ax=axes, fraction=0.025, pad=0.015)
    bar.set_label("rank of the layer (grey: not adapted)", fontsize=10)
    bar.outline.set_visible(False)
