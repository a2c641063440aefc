"""Schedules of the learning rate: its share at every step of a run, after a warm-up."""

from __future__ import annotations

import math
from collections.abc import Callable

Schedule = Callable[[int, int, float], float]


def late(index: int, steps: int, falling: float) -> float:
    """Returns 1 at first, then a straight fall to zero over the last `falling` of the steps."""
    return min(1.0, (steps - index) / max(1.0, falling * steps))


def constant(index: int, steps: int, falling: float) -> float:
    """Returns 1, the full learning rate, at every step."""
    return 1.0


def linear(index: int, steps: int, falling: float) -> float:
    """Returns a straight fall from 1 to zero over all steps."""
    return (steps - index) / steps


def cosine(index: int, steps: int, falling: float) -> float:
    """Returns half a cosine, from 1 to zero (arXiv 1608.03983)."""
    return (1 + math.cos(math.pi * index / steps)) / 2


# each is given the step's index, the number of steps, and the share of them over which `late` falls
SCHEDULES: dict[str, Schedule] = {f.__name__: f for f in (late, constant, linear, cosine)}


def shares(schedule: str, steps: int, warmup: int, falling: float) -> list[float]:
    """Returns the share of the learning rate at every step: a straight rise over the first `warmup`
    steps, then the schedule over the rest.
    """
    rising = [(index + 1) / (warmup + 1) for index in range(warmup)]
    left = steps - warmup
    return rising + [SCHEDULES[schedule](index, left, falling) for index in range(left)]
