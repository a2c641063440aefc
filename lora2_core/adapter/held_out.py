"""The held-out loss of a training, and the loss of each of its pictures, as series of numbers that
an adapter's history holds.
"""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from .series import numbers, whole

LEVELS = 4  # noise levels, from the least noise to the most
EARLY = 0.25  # share of the run after which a picture counts as learned at once
STEP, LOSS, RETURNED = "validation_step", "validation_loss", "validation_returned"
PICTURE_STEP, PICTURE_LOSS = "picture_step", "picture_loss_"
Series = Mapping[str, Sequence[float]]


@dataclass
class HeldOut:
    """Holds the held-out loss at rising steps.

    losses: L_rec of the pictures that are not trained on, the mean over all noise levels. levels:
    that of each noise level, [steps][LEVELS]. returned: the step whose adapter was returned, None
    for the last one.
    """

    steps: list[int] = field(default_factory=list)
    losses: list[float] = field(default_factory=list)
    levels: list[list[float]] = field(default_factory=list)
    returned: int | None = None

    @classmethod
    def of(cls, series: Series) -> HeldOut | None:
        """Returns what a history says of it, None where it says nothing that can be used: anybody
        may have written it.
        """
        steps, losses = whole(series.get(STEP)), numbers(series.get(LOSS))
        levels = [numbers(series.get(f"{LOSS}_{n}")) for n in range(1, LEVELS + 1)]
        if not steps or any(len(each) != len(steps) for each in (losses, *levels)):
            return None
        returned = whole(series.get(RETURNED))
        rows = [list(row) for row in zip(*levels, strict=True)]
        return cls(steps, losses, rows, returned[0] if returned else None)

    def series(self) -> dict[str, list]:
        """Returns it as series of a history, {} before the first loss."""
        if not self.steps:
            return {}
        columns = zip(*self.levels, strict=True)
        named = {f"{LOSS}_{n}": list(column) for n, column in enumerate(columns, 1)}
        returned: dict[str, list] = {} if self.returned is None else {RETURNED: [self.returned]}
        lists: dict[str, list] = {STEP: list(self.steps), LOSS: list(self.losses)}
        return lists | named | returned

    def add(self, step: int, levels: Sequence[float]) -> None:
        """Adds the losses of a step, one of each noise level."""
        self.steps.append(step)
        self.losses.append(math.fsum(levels) / len(levels))
        self.levels.append(list(levels))

    def smooth(self) -> list[float]:
        """Returns the smoothed losses: each with weight 2 and its neighbours with weight 1. Noise
        and timesteps are fixed, so that little is noise. The loss before the first step is no
        neighbour: it is that of no adapter.
        """
        first = 1 if self.steps[:1] == [0] else 0
        some = self.losses[first:]
        means = []
        for i, loss in enumerate(some):
            beside = some[max(0, i - 1) : i] + some[i + 1 : i + 2]
            means.append((2 * loss + math.fsum(beside)) / (2 + len(beside)))
        return self.losses[:first] + means

    @property
    def best(self) -> int | None:
        """Returns the step whose adapter was returned, else the one where the smoothed loss is
        lowest; None before the first loss.
        """
        if self.returned is not None:
            return self.returned
        return min(zip(self.smooth(), self.steps, strict=True), default=(0.0, None))[1]


@dataclass
class PictureLosses:
    """Holds the loss of each picture that is trained on, at a few steps of the run.

    losses: [steps][pictures]. names: of the pictures; their numbers, from 1, where nobody knows.
    """

    steps: list[int] = field(default_factory=list)
    losses: list[list[float]] = field(default_factory=list)
    names: list[str] = field(default_factory=list)

    @classmethod
    def of(cls, series: Series, names: Sequence[str] = ()) -> PictureLosses | None:
        """Returns what a history says of them, None where it says nothing that can be used."""
        steps = whole(series.get(PICTURE_STEP))
        rows: list[list[float]] = []
        while (row := numbers(series.get(f"{PICTURE_LOSS}{len(rows) + 1}"))) and steps:
            if len(row) != len(steps):
                return None
            rows.append(row)
        if not rows:
            return None
        named = [*names] if len(names) == len(rows) else [str(n + 1) for n in range(len(rows))]
        return cls(steps, [list(column) for column in zip(*rows, strict=True)], named)

    def series(self) -> dict[str, list[float]]:
        """Returns them as series of a history, {} before the first losses."""
        if not self.steps:
            return {}
        rows = enumerate(zip(*self.losses, strict=True), 1)
        return {PICTURE_STEP: list(self.steps)} | {f"{PICTURE_LOSS}{n}": [*row] for n, row in rows}

    def rows(self) -> list[tuple[str, list[float], float, float]]:
        """Returns (name, its losses, fall, early) of each picture, the least learned first.

        fall: the share of its first loss that is gone at the end. early: the share of that fall
        which was there EARLY in the run; 0 where it did not fall.
        """
        quarter = self.early_index()
        found = []
        for name, losses in zip(self.names, zip(*self.losses, strict=True), strict=True):
            first, last = losses[0], losses[-1]
            fall = 1 - last / first if first > 0 else 0.0
            early = (first - losses[quarter]) / (first - last) if last < first else 0.0
            found.append((name, list(losses), fall, early))
        return sorted(found, key=lambda row: row[2])

    def early_index(self) -> int:
        """Returns the place in `steps` that is nearest to EARLY of the run."""
        wanted = EARLY * self.steps[-1]
        return min(range(len(self.steps)), key=lambda i: abs(self.steps[i] - wanted))

    def csv(self) -> str:
        """Returns the text of a CSV file, a line a picture, the least learned first."""
        text = io.StringIO()
        table = csv.writer(text, lineterminator="\n")
        table.writerow(("picture", *(f"loss_{s}" for s in self.steps), "fall", "early"))
        for name, losses, fall, early in self.rows():
            table.writerow((safe(name), *(f"{v:.6g}" for v in (*losses, fall, early))))
        return text.getvalue()


def safe(name: str) -> str:
    """Returns the name of a file as a cell that no spreadsheet takes for a formula."""
    return f"'{name}" if name.startswith(("=", "+", "-", "@", "\t", "\r")) else name
