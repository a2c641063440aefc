"""A training on one page: its loss and mean rank over the steps, learned ranks, and samples."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from ..adapter.history import History
from ..adapter.lora import RankedLora
from ..adapter.rank_map import rank_map
from .drawing import DPI, blank, pixels
from .heatmap import WIDTH, draw_cells
from .info import as_saved, summary

MOST = 4  # samples of one kind that are shown
HEADER, CURVES, SCALE, TITLE = 1.15, 2.5, 1.0, 0.5  # heights of the parts, in inches
LOSS, RANK, FAINT = "#8a6200", "#1f5fbf", "#d9c48c"


def page(
    lora: RankedLora, title: str, samples: dict[str, Sequence[np.ndarray]] | None = None
) -> np.ndarray:
    """Returns the page as uint8 RGB [height, 1024, 3]; ValueError for an adapter without a history.

    samples: pictures, uint8 RGB [height, width, 3], by the title over them; four a title are shown.
    """
    history, table = History.of(lora), rank_map(lora)
    samples = {name: list(some)[:MOST] for name, some in (samples or {}).items() if len(some)}
    row = 0.34 if len(table.rows) <= 24 else 0.19
    heights = [HEADER, CURVES, max(2.6, SCALE + row * len(table.rows))]
    if samples:
        heights.append(TITLE + WIDTH / DPI / max(MOST, sum(map(len, samples.values()))))
    figure = blank(WIDTH / DPI, sum(heights), layout="constrained")
    figure.get_layout_engine().set(w_pad=0.15)
    parts = figure.subfigures(len(heights), 1, height_ratios=heights)
    draw_header(parts[0], lora, title)
    draw_curves(parts[1], history)
    draw_cells(parts[2], parts[2].add_subplot(), table, 9 if row > 0.3 else 7.5)
    if samples:
        draw_samples(parts[3], samples)
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
    """Draws the loss with its running mean, and the mean rank."""
    left, right = part.subplots(1, 2)
    left.plot(history.steps, history.losses, color=FAINT, linewidth=0.8)
    left.plot(history.steps, history.smooth(), color=LOSS, linewidth=1.8)
    left.set_title("Loss and its running mean", fontsize=10, loc="left")
    right.plot(history.steps, history.mean_ranks, color=RANK, linewidth=1.8)
    right.set_title("Mean rank", fontsize=10, loc="left")
    right.set_ylim(bottom=0)
    for axes in (left, right):
        axes.set_xlabel("step", fontsize=9)
        axes.tick_params(labelsize=8)
        axes.grid(color="#e5e5e5", linewidth=0.8)
        axes.spines[["top", "right"]].set_visible(False)
        axes.set_xlim(history.steps[0], max(history.steps[-1], history.steps[0] + 1))


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
