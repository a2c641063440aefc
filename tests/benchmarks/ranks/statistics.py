"""Means with 95 % intervals over subjects, the lower envelope of the controls, correlations.

A value belongs to a pair (subject, seed). The seeds of a subject are averaged first and the
interval is Student's over subjects, so it says what to expect of another subject.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

Pair = tuple[str, int]
Values = Mapping[Pair, float]
# 97.5 % points of Student's t for 1, 2, ... degrees of freedom
STUDENT = (
    12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228,
    2.201, 2.179, 2.160, 2.145, 2.131, 2.120, 2.110, 2.101, 2.093, 2.086,
)  # fmt: skip
NORMAL = 1.96
ROUNDING = 1.005  # sizes that differ by less are the same size


@dataclass(frozen=True)
class Estimate:
    """mean - half to mean + half is the 95 % interval; half is nan for fewer than two subjects."""

    mean: float
    half: float

    @property
    def low(self) -> float:
        return self.mean - self.half

    @property
    def high(self) -> float:
        return self.mean + self.half

    def exp(self) -> tuple[float, float, float]:
        """(mean, low, high) of what the values are logarithms of."""
        return math.exp(self.mean), math.exp(self.low), math.exp(self.high)


@dataclass(frozen=True)
class Point:
    """A method at one size: MB and a measure's logarithm for every pair."""

    mb: Values
    log: Values


def interval(values: Sequence[float]) -> Estimate:
    """Mean and half width of independent values."""
    count = len(values)
    if count < 2:
        return Estimate(float(np.mean(values)), math.nan)
    t = STUDENT[count - 2] if count - 2 < len(STUDENT) else NORMAL
    return Estimate(float(np.mean(values)), t * float(np.std(values, ddof=1)) / math.sqrt(count))


def over_subjects(values: Values) -> Estimate:
    """Over subjects of their means over seeds."""
    found = defaultdict(list)
    for (subject, _), value in values.items():
        found[subject].append(value)
    return interval([float(np.mean(v)) for v in found.values()])


def geometric_mean(logs: Values) -> float:
    """The geometric mean of what these are the logarithms of."""
    return math.exp(over_subjects(logs).mean)


def difference(first: Values, second: Values) -> Estimate:
    """Of first - second, paired by subject and seed; ValueError when no pair is in both."""
    both = [pair for pair in first if pair in second]
    if not both:
        raise ValueError("No subject and seed was run with both.")
    return over_subjects({pair: first[pair] - second[pair] for pair in both})


def without_subjects(points: Sequence[Values]) -> list[Estimate]:
    """The mean of each with the interval of what is left when every subject's own level, its mean
    over all the points, is taken off.
    """
    levels = defaultdict(list)
    for values in points:
        for (subject, _), value in values.items():
            levels[subject].append(value)
    level = {subject: float(np.mean(v)) for subject, v in levels.items()}
    middle = float(np.mean(list(level.values())))
    return [
        over_subjects({pair: value - level[pair[0]] + middle for pair, value in values.items()})
        for values in points
    ]


def interpolated(points: Sequence[Point], pair: Pair, mb: float) -> float:
    """A method's measure at a size, linear between its own sizes in log(MB); outside, that of its
    smallest or largest.
    """
    ordered = sorted((point.mb[pair], point.log[pair]) for point in points)
    sizes, logs = zip(*ordered, strict=True)
    return float(np.interp(math.log(mb), np.log(sizes), logs))


def envelope(controls: Mapping[str, Sequence[Point]], mb: Values) -> tuple[str, Values]:
    """The best control that is no larger than `mb`, by its mean over all pairs: (name, values).

    Candidates are every method at that very size, by interpolation, and every smaller size of it.
    Below a method's smallest size it stands with that: a control may be larger, never smaller.
    """
    size = over_subjects({pair: math.log(value) for pair, value in mb.items()}).mean
    found: dict[str, Values] = {}
    for name, points in controls.items():
        if len(points) > 1:
            found[name] = {pair: interpolated(points, pair, mb[pair]) for pair in mb}
        for point in points:
            own = {pair: math.log(point.mb[pair]) for pair in mb}
            if over_subjects(own).mean <= size + math.log(ROUNDING):
                values = {pair: point.log[pair] for pair in mb}
                found[f"{name}, {geometric_mean(own):.3f} MB"] = values
    if not found:
        raise ValueError("No control is that small.")
    best = min(found, key=lambda name: over_subjects(found[name]).mean)
    return best, found[best]


def pearson(a: Sequence[float], b: Sequence[float]) -> float:
    """Nan where one of them is constant."""
    if np.std(a) == 0 or np.std(b) == 0:
        return math.nan
    return float(np.corrcoef(a, b)[0, 1])


def places(values: Sequence[float]) -> np.ndarray:
    """The place of each value in the order, from 1; equal values share the mean of theirs."""
    array = np.asarray(values, float)
    below = (array[None, :] < array[:, None]).sum(1)
    equal = (array[None, :] == array[:, None]).sum(1)
    return below + (equal + 1) / 2


def spearman(a: Sequence[float], b: Sequence[float]) -> float:
    return pearson(places(a), places(b))
