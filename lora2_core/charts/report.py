"""A training on one page: its loss and mean rank over the steps, learned ranks, and samples."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from ..adapter.held_out import HeldOut, PictureLosses
from ..adapter.history import History
from ..adapter.lora import RankedLora
from ..adapter.rank_map import rank_map
from .drawing import DPI, blank, pixels
from .grid import Previews, draw_grid, grid_height
from .heatmap import WIDTH, draw_cells
from .info import as_saved, summary

MOST = 4  # samples of one kind that are shown
MOST_ROWS, ROW = 12, 0.22  # of the table of pictures, and the height of a row in inches
HEADER, CURVES, SCALE, TITLE = 1.15, 2.5, 1.0, 0.5  # heights of the parts, in inches
LOSS, RANK, FAINT, HELD_OUT = "#8a6200", "#1f5fbf", "#d9c48c", "#a02c5a"
LEVEL_COLOURS = ("#6baed6", "#3182bd", "#08519c", "#08204a")  # from the least noise to the most


def page(
    lora: RankedLora,
    title: str,
    samples: dict[str, Sequence[np.ndarray]] | None = None,
    grid: Previews | None = None,
) -> np.ndarray:
    """Returns the page as uint8 RGB [height, 1024, 3]; ValueError for an adapter without a history.

    samples: pictures, uint8 RGB [height, width, 3], by the title over them; four a title are shown.
    grid: the pictures that were drawn on the way.
    """
    history, table = History.of(lora), rank_map(lora)
    samples = {name: list(some)[:MOST] for name, some in (samples or {}).items() if len(some)}
    row = 0.34 if len(table.rows) <= 24 else 0.19
    heights = [HEADER, CURVES, max(2.6, SCALE + row * len(table.rows))]
    if history.pictures is not None:
        heights.append(table_height(history.pictures))
    if grid is not None:
        heights.append(grid_height(grid))
    if samples:
        heights.append(TITLE + WIDTH / DPI / max(MOST, sum(map(len, samples.values()))))
    figure = blank(WIDTH / DPI, sum(heights), layout="constrained")
    figure.get_layout_engine().set(w_pad=0.15)
    parts = figure.subfigures(len(heights), 1, height_ratios=heights)
    draw_header(parts[0], lora, title)
    draw_curves(parts[1], history)
    draw_cells(parts[2], parts[2].add_subplot(), table, 9 if row > 0.3 else 7.5)
    if history.pictures is not None:
        draw_picture_losses(parts[3], history.pictures)
    if grid is not None:
        draw_grid(parts[-2 if samples else -1], grid)
    if samples:
        draw_samples(parts[-1], samples)
    return pixels(figure)


def draw_header(part, lora: RankedLora, title: str) -> None:
    """Draws the title and the summary. They are never read as formulas, whatever signs they
    hold.
    """
    lines = summary(lora, "adapter", as_saved(lora)).splitlines()
    style = {"va": "top", "parse_math": False}
    part.text(0.02, 0.9, " ".join(title.split())[:80], fontsize=15, fontweight="bold", **style)
    facts = "\n".join(" ".join(line.split())[:130] for line in lines[:3])
    part.text(0.02, 0.58, facts, fontsize=9, color="#444444", linespacing=1.5, **style)


def draw_curves(part, history: History) -> None:
    """Draws the loss with its running mean, and the mean rank; where pictures were held out, their
    loss too, and that at each noise level.
    """
    left, *levels, right = part.subplots(1, 2 + (history.held_out is not None))
    left.plot(history.steps, history.losses, color=FAINT, linewidth=0.8)
    left.plot(history.steps, history.smooth(), color=LOSS, linewidth=1.8)
    left.set_title("Loss and its running mean", fontsize=10, loc="left")
    if history.held_out is not None:
        draw_held_out(left, levels[0], history.held_out)
    right.plot(history.steps, history.mean_ranks, color=RANK, linewidth=1.8)
    right.set_title("Mean rank", fontsize=10, loc="left")
    right.set_ylim(bottom=0)
    for axes in (left, *levels, right):
        axes.set_xlabel("step", fontsize=9)
        axes.tick_params(labelsize=8)
        axes.grid(color="#e5e5e5", linewidth=0.8)
        axes.spines[["top", "right"]].set_visible(False)
        axes.set_xlim(history.steps[0], max(history.steps[-1], history.steps[0] + 1))


def draw_held_out(axes, by_level, held_out: HeldOut) -> None:
    """Draws the held-out loss beside the training loss with its best step marked, and how it
    changed at each noise level.
    """
    axes.plot(held_out.steps, held_out.losses, color=HELD_OUT, linewidth=1.8, marker=".")
    axes.axvline(held_out.best, color=HELD_OUT, linewidth=0.8, linestyle="--")
    returned = "returned" if held_out.returned is not None else "best"
    axes.set_title(f"Loss; held out: red, {returned} at {held_out.best}", fontsize=10, loc="left")
    for number, column in enumerate(zip(*held_out.levels, strict=True)):
        first = column[0] if column[0] > 0 else 1.0
        shares = [value / first for value in column]
        by_level.plot(held_out.steps, shares, color=LEVEL_COLOURS[number], linewidth=1.4)
    by_level.set_title("Held out, by noise (dark: much)", fontsize=10, loc="left")
    by_level.set_ylim(bottom=0)


def shown_rows(pictures: PictureLosses) -> list[tuple[str, list[float], float, float]]:
    """Returns the rows of the table: all, or the least and the most learned of many pictures."""
    rows = pictures.rows()
    return rows if len(rows) <= MOST_ROWS else rows[: MOST_ROWS // 2] + rows[-MOST_ROWS // 2 :]


def table_height(pictures: PictureLosses) -> float:
    """Returns the height in inches of the table of pictures."""
    return TITLE + ROW * (1 + len(shown_rows(pictures)))


def draw_picture_losses(part, pictures: PictureLosses) -> None:
    """Draws the table of the pictures' losses, the least learned first. Names are never read as
    formulas.
    """
    rows, count = shown_rows(pictures), len(pictures.names)
    axes = part.subplots()
    axes.set_axis_off()
    some = f", the ends of {count}" if len(rows) < count else ""
    axes.set_title(f"Loss of each picture, the least learned first{some}", fontsize=10, loc="left")
    head = ["picture", *(f"step {s}" for s in pictures.steps), "fell by", "of it early"]
    cells = [
        [" ".join(name.split())[-32:], *(f"{v:.4g}" for v in losses), f"{fall:.0%}", f"{early:.0%}"]
        for name, losses, fall, early in rows
    ]
    widths = [0.3, *[0.7 / (len(head) - 1)] * (len(head) - 1)]
    table = axes.table([head, *cells], colWidths=widths, bbox=(0, 0, 1, 1), edges="horizontal")
    table.auto_set_font_size(False)
    table.set_fontsize(8)
    for cell in table.get_celld().values():
        cell.get_text().set_parse_math(False)
        cell.set_edgecolor("#e5e5e5")


def draw_samples(part, samples: dict[str, list[np.ndarray]]) -> None:
    """Draws all samples in one row, those of one title beside each other."""
    pictures = [(name, i, p) for name, some in samples.items() for i, p in enumerate(some)]
    count = max(len(pictures), MOST)
    for axes in part.subplots(1, count, squeeze=False)[0]:
        axes.set_axis_off()
    for axes, (name, i, picture) in zip(part.axes, pictures, strict=False):
        small = picture.shape[0] < WIDTH / count
        axes.imshow(picture, interpolation="nearest" if small else "antialiased")
        if i == 0:
            axes.set_title(name, fontsize=10, loc="left")
