"""Layers that get the same input: the host calls to_q, to_k and to_v with one tensor, and to_k and
to_v of all blocks with the caption. What their lora_down make of it is one product, and so are its
gradients. The gradients of the input itself are added up by the products that compute them.
"""

from __future__ import annotations

import weakref
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
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


class Shared:
    """One input of the layers of a unit, `hidden` [inputs, positions of a layer], which is what
    lora_down of each of them makes of it, and the layers that have not asked for theirs yet.

    of_x: the gradient of the input as a matrix, as far as layers have added to it.
    """

    def __init__(self, x: Tensor, unit: Unit):
        self.x, self.version = weakref.ref(x), version_of(x)
        self.unit, self.left = unit, set(range(len(unit.rows)))
        self.hidden: Sequence[Tensor] = ()
        self.of_hidden: Tensor | None = None
        self.of_each: Sequence[Tensor] = ()
        self.of_x: Tensor | None = None
        self.came: set[int] = set()

    def suits(self, x: Tensor) -> bool:
        """Returns whether this is of the tensor x, as it is now."""
        return self.x() is x and self.version == version_of(x)

    def compute_hidden(self, rows: Tensor) -> None:
        """Computes what lora_down makes of the input."""
        self.hidden = F.linear(rows, self.unit.down).split(self.unit.lengths, 1)

    def add(self, index: int, gradient: Tensor, hidden: Tensor) -> None:
        """Adds what the gradient of a layer's output gives."""
        unit = self.unit
        unit.add_up(index, gradient.T @ hidden)
        if self.of_hidden is None:
            self.of_hidden = hidden.new_empty((hidden.shape[0], unit.down.shape[0]))
            self.of_each = self.of_hidden.split(unit.lengths, 1)
        torch.mm(gradient, unit.ups[index], out=self.of_each[index])
        self.came.add(index)

    def complete(self) -> Tensor | None:
        """Returns the gradient of `hidden`, zero for layers that had none; None if all had none."""
        of_hidden, of_each, came = self.of_hidden, self.of_each, self.came
        self.of_hidden, self.of_each, self.came = None, (), set()
        if of_hidden is not None:
            for index in set(range(len(self.unit.rows))) - came:
                of_each[index].zero_()
        return of_hidden


class Shares(torch.autograd.Function):
    """Computes the hidden values of a Shared. Returns a scalar that stands for them in the graph:
    once all layers have added their gradients, it is the turn of the gradient of x.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, _origin: Tensor, shared: Shared) -> Tensor:
        shared.compute_hidden(rows_of(x.detach(), shared.unit.down.dtype))
        ctx.save_for_backward(x)
        ctx.shared = shared
        ctx.set_materialize_grads(False)
        return x.new_empty(())

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, _gradient: None) -> tuple:
        of_hidden, of_x, unit = ctx.shared.complete(), ctx.shared.of_x, ctx.shared.unit
        ctx.shared = None  # the loss may live on, and with it whatever stands here
        if of_hidden is None:
            return None, None, None
        (x,) = ctx.saved_tensors
        unit.add_down(of_hidden.T @ rows_of(x, unit.down.dtype))
        return plus_product(of_x, of_hidden, unit.down).view(x.shape), None, None


class Given(Shared):
    """The same of an input that needs no gradient: the layers' gradients wait, and those of one
    shape are computed together.
    """

    def __init__(self, x: Tensor, unit: Unit):
        super().__init__(x, unit)
        self.rows = rows_of(x.detach(), unit.down.dtype)
        self.compute_hidden(self.rows)
        self.waiting: dict[int, tuple[Tensor, Tensor]] = {}
        self.parts: dict[int, Tensor] = {}  # of the gradient of `hidden`
        self.bytes = 0

    def add(self, index: int, gradient: Tensor, hidden: Tensor) -> None:
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
