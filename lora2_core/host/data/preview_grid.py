"""The previews of a run as a grid: a row for each step, a column for each preview."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import folder_paths
import numpy as np

from ...adapter.lora import RankedLora
from ...dataset.reading import Unusable, decode
from ...paths import below

MOST_ROWS, MOST_COLUMNS = 8, 6  # more could not be seen


@dataclass(frozen=True)
class Grid:
    """Holds pictures, uint8 RGB [height, width, 3], or None where one is missing.

    steps: of the rows. labels: of the columns. pictures: [rows][columns].
    """

    steps: list[int]
    labels: list[str]
    pictures: list[list[np.ndarray | None]]


def preview_grid(lora: RankedLora) -> Grid | None:
    """Returns the previews of an adapter's run, of many the first, the last and some between; None
    where it has none, or their files are gone.
    """
    known = [row for row in lora.origin.run.previews if is_row(row)]
    steps = some(sorted({row[0] for row in known}), MOST_ROWS)
    numbers = sorted({row[1] for row in known})[:MOST_COLUMNS]
    files = {(step, number): file for step, number, file, _ in known}
    labels = {number: label for _, number, _, label in known}
    pictures = [[read(files.get((step, number))) for number in numbers] for step in steps]
    if not any(picture is not None for row in pictures for picture in row):
        return None
    return Grid(steps, [labels[number] for number in numbers], pictures)


def is_row(row: object) -> bool:
    """Returns whether this is one preview: a checkpoint that a run went on from may say it."""
    kinds = (int, int, str, str)
    return (
        isinstance(row, (list, tuple))
        and len(row) == len(kinds)
        and all(isinstance(value, kind) for value, kind in zip(row, kinds, strict=True))
    )


def some(values: Sequence[int], most: int) -> list[int]:
    """Returns at most `most` of the values, evenly spread, with the first and the last one."""
    if len(values) <= most:
        return list(values)
    return [values[round(i * (len(values) - 1) / (most - 1))] for i in range(most)]


def read(name: str | None) -> np.ndarray | None:
    """Returns the picture of a name below the output folder, None where there is none."""
    path = below(folder_paths.get_output_directory(), name)
    if path is None or not path.is_file():
        return None
    try:
        return (decode(path.read_bytes()) * 255).round().astype(np.uint8)
    except (OSError, Unusable):
        return None
