"""What the paths of layers with the same input compute with in a pass, and what comes back."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

Some = list[Tensor | None]


class Unit:
    """A layer, or several that get the same input: what their paths compute with, and the sums of
    the gradients of that.

    rows: the numbers of the layers. down: lora_down with Lambda of all of them, [positions,
    fan_in]; ups: lora_up of each; backs: its transpose. lengths: how many positions each has. runs:
    which of them compute together with one, from one to before another, where that is known.
    """

    __slots__ = (
        "__weakref__",
        "backs",
        "down",
        "downs",
        "lengths",
        "of_down",
        "of_ups",
        "rows",
        "runs",
        "ups",
    )

    def __init__(self, rows: Sequence[int], lengths: Sequence[int], down: Tensor):
        self.rows, self.lengths, self.down = rows, lengths, down
        self.downs = down.split(lengths) if len(rows) > 1 else (down,)
        self.ups: list[Tensor] = []
        self.backs: list[Tensor] = []
        self.of_down: Tensor | None = None
        self.of_ups: Some = [None] * len(rows)
        self.runs: dict[int, tuple[int, int]] = {}

    def take(self, ups: list[Tensor]) -> None:
        """Takes lora_up of each layer."""
        self.ups, self.backs = ups, [up.t() for up in ups]

    def add(self, index: int, of_down: Tensor, of_up: Tensor) -> None:
        """Adds the gradients of one layer."""
        self.add_up(index, of_up)
        self.add_downs(index, index + 1, of_down)

    def add_downs(self, start: int, stop: int, of_down: Tensor) -> None:
        """Adds the gradient of the lora_down of some layers behind each other."""
        if stop - start == len(self.rows):
            self.add_down(of_down)
            return
        if self.of_down is None:
            self.of_down = torch.zeros_like(self.down)
        self.part(self.of_down, start, stop).add_(of_down)

    def part(self, of_all: Tensor, start: int, stop: int) -> Tensor:
        """Returns the positions of some layers behind each other, of a matrix like `down`."""
        if stop - start == len(self.rows):
            return of_all
        return of_all.narrow(0, sum(self.lengths[:start]), sum(self.lengths[start:stop]))

    def add_up(self, index: int, of_up: Tensor) -> None:
        """Adds the gradient of a layer's lora_up."""
        there = self.of_ups[index]
        self.of_ups[index] = of_up if there is None else there.add_(of_up)

    def add_down(self, of_down: Tensor) -> None:
        """Adds the gradient of the lora_down of all layers."""
        self.of_down = of_down if self.of_down is None else self.of_down.add_(of_down)
