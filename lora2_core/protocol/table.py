"""The table of finished trials: a CSV file that grows line by line, so that a crash at any moment
loses no finished trial and a second start repeats none.
"""

from __future__ import annotations

import csv
import io
import os
from collections.abc import Mapping
from pathlib import Path

from .plan import Trial

NUMBERS = (
    "megabytes", "mean_rank", "loss", "dino", "clip_i", "clip_t", "train_seconds",
    "draw_seconds", "score_seconds",
)  # fmt: skip
COLUMNS = ("subject", "method", "seed", "fingerprint", *NUMBERS)
Rows = dict[Trial, dict[str, float | None]]


def line(values: list) -> str:
    """Returns values as a line of CSV; None becomes an empty field."""
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerow(["" if v is None else v for v in values])
    return text.getvalue()


def read_rows(path: Path) -> tuple[Rows, int]:
    """Returns the rows of a table, and the number of bytes of its complete lines; another process
    may be writing it. Raises ValueError for another kind of file.
    """
    data = path.read_bytes() if path.is_file() else b""
    complete = data[: data.rfind(b"\n") + 1]
    lines = list(csv.reader(complete.decode("utf-8").splitlines()))
    if lines and tuple(lines[0]) != COLUMNS:
        raise ValueError(f"{path} is no table of this protocol: move it away or choose --out.")
    rows: Rows = {}
    for values in lines[1:]:
        cells = dict(zip(COLUMNS, values, strict=True))
        trial = Trial(cells["subject"], cells["method"], int(cells["seed"]), cells["fingerprint"])
        rows[trial] = {n: float(cells[n]) if cells[n] else None for n in NUMBERS}
    return rows, len(complete)


def rows_of(rows: Mapping[Trial, Mapping], method: str) -> list[Mapping]:
    """Returns the rows of a method."""
    return [row for trial, row in rows.items() if trial.method == method]


class Table:
    """The table on disk, and its rows by trial. Only one process may write it. A last line that a
    crash cut off is removed.
    """

    def __init__(self, path: Path):
        self.path = path
        path.parent.mkdir(parents=True, exist_ok=True)
        self.rows, complete = read_rows(path)
        if path.is_file() and complete < path.stat().st_size:
            os.truncate(path, complete)
        if not complete:
            self._append(line(list(COLUMNS)))

    def _append(self, text: str) -> None:
        with open(self.path, "ab") as file:
            file.write(text.encode("utf-8"))
            file.flush()
            os.fsync(file.fileno())

    def add(self, trial: Trial, numbers: Mapping[str, float | None]) -> None:
        """Adds a finished trial; its row is on the disk when this returns."""
        row = {n: None if numbers.get(n) is None else float(numbers[n]) for n in NUMBERS}
        own = [trial.subject, trial.method, trial.seed, trial.fingerprint]
        self._append(line([*own, *row.values()]))
        self.rows[trial] = row

    def finished(self, wanted: list[Trial]) -> Rows:
        """Returns the rows of the wanted trials that are finished, in the order of `wanted`."""
        return {trial: self.rows[trial] for trial in wanted if trial in self.rows}

    def missing(self, wanted: list[Trial]) -> list[Trial]:
        """Returns the wanted trials that are not finished, in the order of `wanted`."""
        return [trial for trial in dict.fromkeys(wanted) if trial not in self.rows]
