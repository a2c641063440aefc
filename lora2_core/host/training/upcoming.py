"""Which layers come next, and where in a buffer their weights lie meanwhile; for ahead.py."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from typing import Any

from torch import nn


class Order:
    """Tells from the pass before which layer comes next. at: calls of this pass so far, which were
    those of the one before; None once one was another.
    """

    def __init__(self) -> None:
        self.last: list[nn.Module] = []
        self.now: list[nn.Module] = []
        self.at: int | None = 0

    def begin(self) -> bool:
        """Begins a pass; returns whether the one before ended where it was known to. One that ended
        earlier, as without a backward pass, changes nothing of what is known.
        """
        ended = self.at == len(self.last)
        if self.now != self.last[: len(self.now)]:
            self.last, ended = self.now, False
        self.now, self.at = [], 0
        return ended

    def agrees(self, module: nn.Module) -> bool:
        """Notes a call; returns whether all calls of this pass were as known."""
        self.now.append(module)
        if self.at is not None:
            known = self.following(0) is module
            self.at = self.at + 1 if known else None
        return self.at is not None

    def following(self, count: int) -> nn.Module | None:
        """Returns the layer that comes after `count` others, those of the next pass after the last
        one of this; None where that isn't known.
        """
        if self.at is None or count >= len(self.last):
            return None
        return self.last[(self.at + count) % len(self.last)]

    def is_first(self, count: int) -> bool:
        """Returns whether the layer after `count` others begins the next pass."""
        return (self.at + count) % len(self.last) == 0


class Ring:
    """Gives out places of so many bytes in turn. A place is a number that grows from lap to lap.

    read: the places that were read, in turn, and the events that their reading ends with.
    """

    def __init__(self, size: int):
        self.size, self.next = size, 0
        self.read: deque[tuple[int, Any]] = deque()

    def place(self, size: int, oldest: int | None, *, first: bool) -> int | None:
        """Returns the next place, None where it would reach the oldest that is still needed. first:
        of a pass, which begins a lap, so that all passes have the same places.
        """
        rest = -self.next % self.size
        begin = self.next + rest if first or size > rest else self.next
        if oldest is not None and begin + size - oldest > self.size:
            return None
        self.next = begin + size
        return begin

    def readers(self, end: int) -> Iterator[Any]:
        """Yields the events after which nobody reads what lay there before a place that ends so."""
        while self.read and self.read[0][0] < end - self.size:
            yield self.read.popleft()[1]
