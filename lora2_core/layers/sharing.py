"""Layers that get the same input: the host calls to_q, to_k and to_v with one tensor, and to_k and
to_v of all blocks with the caption. What their lora_down make of it is one product, and so are its
gradients. All of them compute when the first one is called (several.py).
"""

from __future__ import annotations

import weakref

import torch
from torch import Tensor
from torch.nn import functional as F

from .unit import Unit

# bytes of gradients that wait to be computed together, where the input needs none: those of a
# caption of 77 tokens in all blocks of SDXL take 26 MB
WAITING = 2**25


def rows_of(x: Tensor, dtype: torch.dtype) -> Tensor:
    """Returns the inputs or outputs of a Linear as a matrix of this dtype."""
    return x.reshape(-1, x.shape[-1]).to(dtype)


def plus_product(there: Tensor, a: Tensor, b: Tensor) -> Tensor:
    """Adds a @ b to a matrix, and returns it."""
    if there.dtype == a.dtype:
        return there.addmm_(a, b)
    there += a @ b
    return there


def version_of(x: Tensor) -> int:
    """Returns how often a tensor was written into; 0 where torch does not count."""
    return 0 if x.is_inference() else x._version


class Watch:
    """Finds the layers that get the same input, in the first pass that has gradients."""

    def __init__(self) -> None:
        self.seen: dict[int, tuple[weakref.ref, list[int]]] = {}
        self.groups: list[list[int]] = []
        self.known: set[int] = set()

    def see(self, row: int, x: Tensor) -> None:
        """Remembers that a layer got x, unless it has got something before."""
        of, group = self.seen.get(id(x), (None, []))
        if of is None or of() is not x:
            group = []
            self.groups.append(group)
            self.seen[id(x)] = weakref.ref(x), group
        if row not in self.known:
            self.known.add(row)
            group.append(row)

    def found(self) -> list[list[int]]:
        """Returns the layers that got the same input, in groups of more than one."""
        return [sorted(group) for group in self.groups if len(group) > 1]


class Of:
    """Stands for an input of layers as it is now, and does not keep it."""

    def __init__(self, x: Tensor):
        self.x, self.version = weakref.ref(x), version_of(x)

    def suits(self, x: Tensor) -> bool:
        """Returns whether this is of the tensor x, as it is now."""
        return self.x() is x and self.version == version_of(x)


class Ahead(Of):
    """Holds what layers gave that have not been asked yet, since another one got the same input.

    outputs: by the number of the layer. over: holds something once their gradients are computed.
    """

    def __init__(self, x: Tensor, outputs: dict[int, Tensor], over: list[bool]):
        super().__init__(x)
        self.outputs, self.over = outputs, over

    def suits(self, x: Tensor) -> bool:
        return self.x() is x and not self.over and self.version == version_of(x)


class Given(Of):
    """Holds an input that needs no gradient, of all layers of a unit, and `hidden` [inputs,
    positions of a layer], which is what lora_down of each of them makes of it. The layers'
    gradients wait, and those of one shape are computed together.

    left: the layers that have not asked for theirs yet.
    """

    def __init__(self, x: Tensor, unit: Unit):
        super().__init__(x)
        self.unit, self.left = unit, set(range(len(unit.rows)))
        self.rows = rows_of(x.detach(), unit.down.dtype)
        self.hidden = F.linear(self.rows, unit.down).split_with_sizes(unit.lengths, 1)
        self.waiting: dict[int, tuple[Tensor, Tensor]] = {}
        self.parts: dict[int, Tensor] = {}  # of the gradient of `hidden`
        self.bytes = 0

    def add(self, index: int, gradient: Tensor, hidden: Tensor) -> None:
        """Adds what the gradient of a layer's output gives."""
        if index in self.waiting:
            self.compute()
        self.waiting[index] = gradient, hidden
        self.bytes += gradient.numel() * gradient.element_size()
        if self.bytes > WAITING:
            self.compute()

    def compute(self) -> None:
        """Computes the gradients of lora_up and hidden of all layers that wait."""
        shapes: dict[torch.Size, list[int]] = {}
        for index in self.waiting:
            shapes.setdefault(self.unit.ups[index].shape, []).append(index)
        for some in shapes.values():
            pairs = [self.waiting[index] for index in some]
            gradients, hidden = (torch.stack(each) for each in zip(*pairs, strict=True))
            ups = torch.stack([self.unit.ups[index] for index in some])
            of_ups, of_hidden = gradients.mT @ hidden, gradients @ ups
            for index, of_up, part in zip(some, of_ups.unbind(), of_hidden.unbind(), strict=True):
                self.unit.add_up(index, of_up)
                self.parts[index] = self.parts[index] + part if index in self.parts else part
        self.waiting.clear()
        self.bytes = 0

    def finish(self) -> None:
        """Adds all that is left to the unit's gradients."""
        self.compute()
        if self.parts:
            for index, length in enumerate(self.unit.lengths):
                if index not in self.parts:
                    self.parts[index] = self.rows.new_zeros(self.rows.shape[0], length)
            parts = [self.parts[index] for index in range(len(self.unit.lengths))]
            self.unit.add_down(torch.cat(parts, 1).T @ self.rows)
            self.parts.clear()
