"""The table of finished trials: a CSV file that grows by whole lines, so that a crash at any moment
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
    """Returns one line of CSV; empty for None."""
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerow(["" if v is None else v for v in values])
    return text.getvalue()


def read_rows(path: Path) -> tuple[Rows, int]:
    """Returns the rows of a table and the bytes of its whole lines, while another process may write
    it; ValueError for another kind of file.
    """
    data = path.read_bytes() if path.is_file() else b""
    whole = data[: data.rfind(b"\n") + 1]
    lines = list(csv.reader(whole.decode("utf-8").splitlines()))
    if lines and tuple(lines[0]) != COLUMNS:
        raise ValueError(f"{path} is no table of this protocol: move it away or choose --out.")
    rows: Rows = {}
    for values in lines[1:]:
        told = dict(zip(COLUMNS, values, strict=True))
        trial = Trial(told["subject"], told["method"], int(told["seed"]), told["fingerprint"])
        rows[trial] = {n: float(told[n]) if told[n] else None for n in NUMBERS}
    return rows, len(whole)


def rows_of(rows: Mapping[Trial, Mapping], method: str) -> list[Mapping]:
    """Returns those of a method."""
    return [row for trial, row in rows.items() if trial.method == method]


class Table:
    """Rows by trial. One process writes; a line that was cut off by a crash is taken away."""

    def __init__(self, path: Path):
        self.path = path
        path.parent.mkdir(parents=True, exist_ok=True)
        self.rows, whole = read_rows(path)
        if path.is_file() and whole < path.stat().st_size:
            os.truncate(path, whole)
        if not whole:
            self._append(line(list(COLUMNS)))

    def _append(self, text: str) -> None:
        with open(self.path, "ab") as file:
            file.write(text.encode("utf-8"))
            file.flush()
            os.fsync(file.fileno())

    def add(self, trial: Trial, numbers: Mapping[str, float | None]) -> None:
        """Writes a finished trial; it is on the disk when this returns."""
        row = {n: None if numbers.get(n) is None else float(numbers[n]) for n in NUMBERS}
        own = [trial.subject, trial.method, trial.seed, trial.fingerprint]
        self._append(line([*own, *row.values()]))
        self.rows[trial] = row

    def finished(self, wanted: list[Trial]) -> Rows:
        """Returns the rows of those that are, in their order."""
        return {trial: self.rows[trial] for trial in wanted if trial in self.rows}

    def missing(self, wanted: list[Trial]) -> list[Trial]:
        """Returns those that are not finished, in their order."""
        return [trial for trial in dict.fromkeys(wanted) if trial not in self.rows]
