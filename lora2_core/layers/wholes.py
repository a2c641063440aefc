"""Parameters of many layers that lie behind each other in memory. An optimizer takes them for one:
to go through hundreds of tensors takes a computer longer than a GPU needs to step them.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn


class Whole:
    """Holds parameters that are parts of one, `values`, which has their gradients too. apart:
    whether the members may have gradients of their own. kept: what an optimizer keeps of `values`,
    whose parts it keeps of the members; None where it keeps something of each alone.

    stacked: they are of one shape, in front of each other; else matrices below each other.
    """

    def __init__(self, members: Sequence[nn.Parameter], *, stacked: bool):
        self.members, self.stacked = list(members), stacked
        self.apart = any(member.grad is not None for member in members)
        self.kept: dict | None = None
        self.sizes = [member.numel() for member in members]
        self.shapes = [member.shape for member in members]
        self.values = nn.Parameter(self.joined([member.detach() for member in members]))
        for member, part in zip(members, self.parts(self.values.detach()), strict=True):
            member.data = part

    def joined(self, parts: Sequence[Tensor]) -> Tensor:
        """Returns a tensor like `values` with these parts."""
        return torch.stack(list(parts)) if self.stacked else torch.cat(list(parts))

    def parts(self, values: Tensor) -> list[Tensor]:
        """Returns the parts that the members have in a tensor like `values`."""
        split = values.view(-1).split(self.sizes)
        return [part.view(shape) for part, shape in zip(split, self.shapes, strict=True)]

    def holds(self, members: Sequence[nn.Parameter]) -> bool:
        """Returns whether these are its members, and still parts of it."""
        if len(members) != len(self.members):
            return False
        start, width = self.values.data_ptr(), self.values.element_size()
        for member, own, size in zip(members, self.members, self.sizes, strict=True):
            if member is not own or (size and member.data_ptr() != start):
                return False
            start += width * size
        return True

    def add(self, gradient: Tensor) -> None:
        """Adds a gradient like `values`; it may be kept and written into."""
        there = self.values.grad
        self.values.grad = gradient if there is None else there.add_(gradient)

    def gradients(self) -> list[Tensor]:
        """Returns the members' parts of its gradient, none where it has none."""
        return [] if self.values.grad is None else self.parts(self.values.grad)

    def spread(self) -> None:
        """Gives each member its part of the gradient."""
        self.apart = self.apart or self.values.grad is not None
        for member, part in zip(self.members, self.gradients(), strict=False):
            member.grad = part if member.grad is None else member.grad + part
        self.values.grad = None
