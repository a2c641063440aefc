"""Strengths of an adapter by block of the model and over the sampling steps, as a user writes them.

`0:1, 0.5:0.3` is a schedule: from the start the factor is 1, from the middle of the sampling on it
is 0.3.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field

from ..paths import quoted
from .block_weights import BlockWeights

LARGEST = 100.0  # of a factor, the range of the host's own strengths
MOST = 1000  # entries of a text: more than any model has layers
HOLD, LINEAR = "hold", "linear"
BETWEEN = (HOLD, LINEAR)
SPACING = 0.05  # of a schedule that is drawn as a line: the host's keyframes hold their value


@dataclass(frozen=True)
class Strengths:
    """Holds the factors that a strength is multiplied by.

    parts: part of the model -> factor. blocks: factors that count instead of their part's.
    schedule: (share of the sampling, factor) in rising order, empty for a strength that never
    changes. between: one of BETWEEN.
    """

    parts: Mapping[str, float] = field(default_factory=dict)
    blocks: BlockWeights = BlockWeights()
    schedule: tuple[tuple[float, float], ...] = ()
    between: str = HOLD

    def factor(self, layer: str, part: str) -> float:
        """Returns the factor of a layer. layer: its name. part: where it is in the model."""
        given = self.blocks.given(layer)
        return self.parts.get(part, 1.0) if given is None else given

    def keyframes(self) -> list[tuple[float, float]]:
        """Returns the schedule with each value held until the next one."""
        if self.between == HOLD:
            return list(self.schedule)
        found = list(self.schedule[:1])
        for (start, low), (end, high) in zip(self.schedule, self.schedule[1:], strict=False):
            count = max(1, math.ceil((end - start) / SPACING - 1e-9))
            shares = [n / count for n in range(1, count + 1)]
            found += [(start + s * (end - start), low + s * (high - low)) for s in shares]
        return found

    @property
    def varies(self) -> bool:
        """Returns whether the strength changes over the sampling, or isn't 1 all along."""
        return any(factor != 1 for _, factor in self.schedule)


def entries(name: str, text: str, sign: str, example: str) -> list[tuple[str, str]]:
    """Returns the pairs of a text such as `a=1, b=2`; ValueError for an entry that is no pair."""
    parts = [part.strip() for part in re.split(r"[,;\n]", text) if part.strip()]
    if len(parts) > MOST:
        raise ValueError(f"{name} has {len(parts)} entries: give {MOST} at most.")
    found = []
    for part in parts:
        left, middle, right = part.partition(sign)
        if not (middle and left.strip() and right.strip()):
            raise ValueError(f"{name} has {quoted(part)}: write it as in {example}.")
        found.append((left.strip(), right.strip()))
    return found


def number(name: str, text: str, low: float, high: float) -> float:
    """Returns the number that a text is; ValueError unless it is one from low to high."""
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not low <= value <= high:
        raise ValueError(f"{name} has {quoted(text)}: give a number from {low:g} to {high:g}.")
    return value


def read_schedule(text: str) -> tuple[tuple[float, float], ...]:
    """Returns (share of the sampling, factor) of a text; ValueError in one sentence for what can't
    be read.
    """
    found: dict[float, float] = {}
    for share, value in entries("schedule", text, ":", "0:1, 0.5:0.3"):
        start = number("schedule", share, 0, 1)
        if start in found:
            raise ValueError(f"schedule has two values for {start:g}: give one of them.")
        found[start] = number("schedule", value, -LARGEST, LARGEST)
    return tuple(sorted(found.items()))
