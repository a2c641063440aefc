"""How the learning rate goes over a run: a share of it for every step, warm-up first."""

from __future__ import annotations

import math
from collections.abc import Callable

Schedule = Callable[[int, int, float], float]


def late(index: int, steps: int, decay: float) -> float:
    """Whole, until it falls to zero over the last `decay` of the steps."""
    return min(1.0, (steps - index) / max(1.0, decay * steps))


def constant(index: int, steps: int, decay: float) -> float:
    """Returns the full learning rate at every step."""
    return 1.0


def linear(index: int, steps: int, decay: float) -> float:
    """Falls to zero over all steps."""
    return (steps - index) / steps


def cosine(index: int, steps: int, decay: float) -> float:
    """Returns half a cosine, from the full learning rate to zero (arXiv 1608.03983)."""
    return (1 + math.cos(math.pi * index / steps)) / 2


SCHEDULES: dict[str, Schedule] = {f.__name__: f for f in (late, constant, linear, cosine)}


def shares(schedule: str, steps: int, warmup: int, decay: float) -> list[float]:
    """Returns the share of the learning rate at every step: a straight rise over the `warmup`
    steps, then the schedule over those that are left.
    """
    rising = [(index + 1) / (warmup + 1) for index in range(warmup)]
    left = steps - warmup
    return rising + [SCHEDULES[schedule](index, left, decay) for index in range(left)]
