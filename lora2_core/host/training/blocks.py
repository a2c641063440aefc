"""A block that is computed without a graph, and again with one in the backward pass.

torch's own checkpoint builds the graph twice, and calls into Python for every tensor that is kept.
Here the first pass has no graph. The second one has a graph of its own, in which autograd sees
where a block writes over what its gradients need; the layers' paths add their gradients to their
pass by themselves.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from ...layers.passes import Passes
from ...layers.sharing import version_of
from .offloading import Hold
from .out_of_place import OutOfPlace, is_out_of_place, overwriting_refused
from .overwritten import is_overwriting, keep

UNCHECKPOINTED = (
    "This model writes over values that its gradients need, so it can't be trained with gradient "
    "checkpointing: turn it off in LoRA2 Memory Options, and lower start_rank or the resolution "
    "where memory is too little."
)


class Slot:
    """Stands for a tensor among arguments."""


def mapped(value: Any, change: Callable[[Any], object], kind: type = Tensor) -> Any:
    """Returns a copy of nested dicts, lists and tuples in which tensors, or what is of another
    kind, are changed.
    """
    if isinstance(value, kind):
        return change(value)
    if type(value) is dict:
        return {name: mapped(v, change, kind) for name, v in value.items()}
    if type(value) in (list, tuple):
        return type(value)([mapped(v, change, kind) for v in value])
    return value


def tensors_of(value: Any) -> list[Tensor]:
    """Returns the tensors in nested dicts, lists and tuples."""
    found: list[Tensor] = []
    mapped(value, found.append)
    return found


def writes_over(outs: list[Tensor], leaves: list[Tensor]) -> bool:
    """Returns whether something was written over that the gradients of these leaves need."""
    try:
        torch.autograd.grad(
            sum(t.sum() for t in outs), leaves, allow_unused=True, retain_graph=True
        )
    except RuntimeError as error:
        if not is_overwriting(error):
            raise
        return True
    return False


class Block:
    """Holds one call of a block. given: its arguments, and `learning`: their tensors that have
    gradients, until the first pass. fixed: those that have none. The second pass gets copies of the
    arguments, since a block may write into dicts that it is given.
    """

    def __init__(self, forward: Callable, args: tuple, kwargs: dict, hold: Hold = keep):
        self.forward, self.hold, self.fixed = forward, hold, []
        self.given, self.learning = (args, kwargs), []
        self.arguments = mapped(self.given, self.place)
        # the model is computed so, and so must the second pass be, which is in another thread
        self.mode = OutOfPlace if is_out_of_place() else nullcontext

    def place(self, tensor: Tensor) -> Tensor | Slot:
        """Returns what stands for a tensor among the arguments."""
        if tensor.requires_grad:
            self.learning.append(tensor)
            return Slot()
        self.fixed.append(tensor)
        return tensor

    def compute_first(self) -> Any:
        """Returns what the block makes of its arguments, and holds them no more."""
        (args, kwargs), self.given = self.given, ((), {})
        return self.forward(*args, **kwargs)

    def compute(self, *tensors: Tensor) -> Any:
        """Returns what the block makes of these tensors where its own have gradients."""
        new = iter(tensors)
        args, kwargs = mapped(self.arguments, lambda _: next(new), Slot)
        return self.forward(*args, **kwargs)

    def is_apart(self, passes: Passes) -> bool:
        """Returns whether all gradients go to the block's arguments and the layers' paths, and
        nothing that they need is written over: it may use something else that was computed before.
        """
        with passes.during(None):
            leaves = [t.detach().requires_grad_() for t in self.learning]
            versions = [version_of(t) for t in (*self.fixed, *leaves)]
            first = torch.ones((), requires_grad=True).clone().grad_fn._sequence_nr()
            outs = [t for t in tensors_of(self.compute(*leaves)) if t.requires_grad]
            if versions != [version_of(t) for t in (*self.fixed, *leaves)]:
                return False
            begun = passes.begun().origin
            if outs and writes_over(outs, [begun, *leaves]):
                return False
            todo, origin, seen = [t.grad_fn for t in outs], begun.grad_fn, set()
        while todo:
            node = todo.pop()
            if node is None or node is origin or node in seen:
                continue
            seen.add(node)
            if hasattr(node, "variable"):
                if not any(node.variable is leaf for leaf in leaves):
                    return False
            elif node._sequence_nr() < first:
                return False
            todo += [following for following, _ in node.next_functions]
        return True

    def checkpointed(self, passes: Passes) -> Any:
        """Returns what the block computes, with gradients for which it is computed again."""
        results: list = []
        tensors, self.learning = self.learning, []
        made = iter(Checkpoint.apply(self, passes, results, passes.begun().origin, *tensors))
        return mapped(results[0], lambda t: t if self.is_given(t) else next(made))

    def is_given(self, tensor: Tensor) -> bool:
        """Returns whether a tensor is one of the arguments that have no gradients."""
        return any(tensor is t for t in self.fixed)


class Checkpoint(torch.autograd.Function):
    """Computes a block now without a graph, and again for its gradients."""

    @staticmethod
    def forward(
        ctx: Any, block: Block, passes: Passes, results: list, _origin: Tensor, *tensors: Tensor
    ) -> tuple[Tensor, ...]:
        ctx.block, ctx.passes, ctx.now = block, passes, passes.begun()
        ctx.held = [block.hold(t) for t in tensors]
        ctx.set_materialize_grads(False)
        versions = [version_of(t) for t in (*block.fixed, *tensors)]
        results.append(block.compute_first())
        if versions != [version_of(t) for t in (*block.fixed, *tensors)]:
            raise ValueError(UNCHECKPOINTED)
        # no views of anything: the model may write into them
        return tuple(t.data for t in tensors_of(results[0]) if not block.is_given(t))

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor | None) -> tuple:
        block, now, held = ctx.block, ctx.now, ctx.held
        # the loss may live on, and with it whatever stands here
        ctx.block = ctx.now = ctx.held = None
        leaves = [each.value().detach().requires_grad_() for each in held]
        with ctx.passes.during(now), torch.enable_grad():
            with block.mode():
                outs = [t for t in tensors_of(block.compute(*leaves)) if not block.is_given(t)]
            pairs = [
                (out, gradient)
                for out, gradient in zip(outs, gradients, strict=True)
                if out.requires_grad and gradient is not None
            ]
            found: tuple = (None,) * (1 + len(leaves))
            if pairs:
                outs, of_outs = zip(*pairs, strict=True)
                with overwriting_refused(UNCHECKPOINTED):
                    found = torch.autograd.grad(
                        outs, [now.origin, *leaves], of_outs, allow_unused=True
                    )
        return (None, None, None, *found)
