"""Medians, paired ratios, exponents and Markdown."""

from __future__ import annotations

import math
from collections.abc import Sequence
from statistics import mean, median
from typing import NamedTuple

from lora2_core import TrainSettings
from lora2_core.training.auction import REVIEWS

REVIEWS_PER_STEP = (REVIEWS - 1) / TrainSettings().steps  # of a run of default length


class Spread(NamedTuple):
    """Median and range of repeats."""

    middle: float
    low: float
    high: float

    def text(self, digits: int = 2) -> str:
        return f"{self.middle:.{digits}f} ({self.low:.{digits}f}–{self.high:.{digits}f})"


def spread(values: Sequence[float]) -> Spread:
    return Spread(median(values), min(values), max(values))


def paired(values: Sequence[float], base: Sequence[float]) -> Spread:
    """Ratios within the same round, so that a slow spell of the machine cancels; ValueError when
    the rounds differ in number.
    """
    return spread([v / b for v, b in zip(values, base, strict=True)])


def step_seconds(row: dict) -> list[float]:
    """Seconds of each measured step, with its share of a default run's reviews of all ranks."""
    review = median(row["reviews"]) * REVIEWS_PER_STEP if row.get("reviews") else 0.0
    return [seconds + review for seconds in row["seconds"]]


def exponent(xs: Sequence[float], ys: Sequence[float]) -> float:
    """b of y = a x^b: the least-squares slope in logarithms."""
    u, v = [math.log(x) for x in xs], [math.log(y) for y in ys]
    across = mean(u)
    return sum((a - across) * b for a, b in zip(u, v, strict=True)) / sum(
        (a - across) ** 2 for a in u
    )


def markdown(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table; the first column to the left, the others to the right."""
    marks = ["---", *["--:"] * (len(head) - 1)]
    return "\n".join("| " + " | ".join(row) + " |" for row in [head, marks, *rows])


def count(number: float) -> str:
    """7962624 as 7.96 M."""
    for size, letter in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if number >= size:
            return f"{number / size:.3g} {letter}"
    return f"{number:g}"
