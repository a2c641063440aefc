"""Pictures in a grid: a row for each step, a column for each preview."""

from __future__ import annotations

from typing import Protocol

import numpy as np

from .drawing import DPI
from .heatmap import WIDTH

TITLE, LABEL = 0.75, 0.7  # inches above the pictures, and left of them
LARGEST_CELL = 2.2  # inches of a column
PER_INCH = 12  # characters of a label in an inch of its column


class Previews(Protocol):
    """Pictures, uint8 RGB [height, width, 3], or None where one is missing: [rows][columns]; steps
    of the rows, labels of the columns.
    """

    steps: list[int]
    labels: list[str]
    pictures: list[list[np.ndarray | None]]


def cell(grid: Previews) -> tuple[float, float]:
    """Returns the width and the height of a picture in inches; the tallest one sets the height."""
    width = min(LARGEST_CELL, (WIDTH / DPI - LABEL) / len(grid.labels))
    shapes = [picture.shape for row in grid.pictures for picture in row if picture is not None]
    return width, width * max(height / across for height, across, _ in shapes)


def grid_height(grid: Previews) -> float:
    """Returns the height of the grid in inches."""
    return TITLE + len(grid.steps) * cell(grid)[1]


def draw_grid(part, grid: Previews) -> None:
    """Draws the pictures with their steps and labels, which are never read as formulas."""
    width, height = cell(grid)
    full, total = WIDTH / DPI, grid_height(grid)
    part.text(0.015, 1 - 0.1 / total, "Previews", fontsize=10, va="top")
    for column, label in enumerate(grid.labels):
        text = wrapped(" ".join(label.split()), int(PER_INCH * width))
        at = (LABEL + column * width) / full, 1 - (TITLE - 0.05) / total
        part.text(*at, text, fontsize=7.5, va="bottom", color="#444444", parse_math=False)
    for row, step in enumerate(grid.steps):
        bottom = 1 - (TITLE + (row + 1) * height) / total
        at = 0.015, bottom + height / total / 2
        part.text(*at, f"step {step}" if step else "before", fontsize=8, va="center")
        for column, picture in enumerate(grid.pictures[row]):
            if picture is None:
                continue
            left = (LABEL + column * width) / full
            box = (left, bottom, 0.97 * width / full, 0.97 * height / total)
            axes = part.add_axes(box)
            axes.set_axis_off()
            small = picture.shape[0] < height * DPI
            axes.imshow(picture, interpolation="nearest" if small else "antialiased")


def wrapped(text: str, width: int) -> str:
    """Returns a text in at most two lines of so many characters."""
    lines = [text[i : i + width] for i in range(0, len(text), width)] or [""]
    if len(lines) > 2:
        lines = [lines[0], f"{lines[1][: width - 1]}\u2026"]
    return "\n".join(lines)
