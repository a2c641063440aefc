"""Series of numbers in the history of an adapter, which may come from a file that anybody wrote."""

from __future__ import annotations

import math
from collections.abc import Sequence


def numbers(values: object) -> list[float]:
    """Returns the floats of a list of finite numbers; [] for any other value."""
    if not isinstance(values, Sequence) or isinstance(values, str):
        return []
    fit = (isinstance(v, (int, float)) and math.isfinite(v) for v in values)
    return [float(v) for v in values] if all(fit) else []


def whole(values: object) -> list[int]:
    """Returns the rising steps of a list of whole numbers from 0; [] for any other value."""
    steps = numbers(values)
    fit = all(v >= 0 and v == int(v) for v in steps)
    rising = all(a < b for a, b in zip(steps, steps[1:], strict=False))
    return [int(v) for v in steps] if fit and rising else []


def running_mean(values: Sequence[float], weight: float) -> list[float]:
    """Returns the running mean of values: the first one, then `weight` of each new one."""
    means: list[float] = []
    for value in values:
        before = means[-1] if means else value
        means.append(before + weight * (value - before))
    return means
