"""One repeated block of a host model, computed as torch.compile makes it, or without where that
can't be.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import cached_property
from typing import TYPE_CHECKING, Any

from torch import nn
from torch.overrides import _len_torch_function_stack, _pop_mode_temporarily

from ...layers.layer import is_adaptable
from ...saying import log
from .compiler import reason_of
from .frozen import HostFrozen, in_ram
from .overwritten import is_copying
from .traced import PATH, traced, without_place

if TYPE_CHECKING:
    from .compiled import CompiledBlocks

# of one kind of block: pictures and captions of other shapes are compiled apart, which takes up to
# a minute each on a CPU; more of them are computed as ever
MOST_SHAPES = 16
MORE = "There are more than {0} shapes: the others are computed without torch.compile."
OVERWRITES = "the model writes over values that its gradients need"
INSIDE = "gradients are needed of more than their outputs"


class CompiledBlock:
    """Computes one repeated block, in the place of its forward. plain: that forward.

    layers: those that the host computes, by how they do on loan. paths: the adapter's layers among
    them, with their numbers.
    """

    def __init__(self, owner: CompiledBlocks, block: nn.Module):
        self.owner, self.block, self.plain = owner, block, block.forward
        self.modules = list(block.modules())
        numbers = owner.numbers
        self.paths = [(m, *numbers[m]) for m in self.modules if m in numbers]
        self.layers = [owner.frozen.layers[m] for m in self.modules if m in owner.frozen.layers]
        self.refused: str | None = None
        if not all(map(self.is_known, self.modules[1:])):
            self.refused = "a layer computes in a way of its own"
        self.keep(self.refused is None)

    @cached_property
    def kind(self) -> tuple:
        """Returns what blocks that share code have in common, as it is when it is first asked for:
        in the first step, when a run that goes on has its capacities.
        """
        kind: list[tuple] = [(type(self.block), *(c.capacity for _, _, c in self.paths))]
        for m in self.modules:
            shapes = [tuple(p.shape) for p in m._parameters.values() if p is not None]
            kind.append((type(m), m in self.owner.numbers, *shapes))
        return tuple(kind)

    def keep(self, keeps: bool) -> None:
        """Says whether the capacities of its layers stay while ranks fall."""
        for _, _, component in self.paths:
            component.keeps = keeps

    def refuse(self, reason: str) -> None:
        """Computes the block without torch.compile from now on; the first reason stays."""
        self.refused = self.refused or reason
        self.keep(False)

    def is_known(self, module: nn.Module) -> bool:
        """Returns whether a layer computes in a way that can be captured."""
        if module._forward_hooks or module._forward_pre_hooks:
            return False
        frozen, adapted = self.owner.frozen, module in self.owner.numbers
        if is_adaptable(module):
            layer = self.owner.numbers[module][1].frozen if adapted else frozen.of(module)
            if layer is None or not layer.suits():
                return False
            return not isinstance(layer, HostFrozen) or layer.standard
        return "forward" not in vars(module) or module in frozen.layers

    def reason_now(self) -> str | None:
        """Returns why the block can't be computed compiled now, None where it can."""
        if self.refused is not None:
            return self.refused
        if is_copying():
            return OVERWRITES
        like = self.owner.like
        for layer in self.layers:
            module, weight = layer.module, layer.module._parameters.get("weight")
            frozen = isinstance(layer, HostFrozen)
            if in_ram(module, like) or (frozen and weight is None):
                return "weights lie in RAM"
            if frozen and weight.dtype != like.dtype:  # the compiler would keep the copies
                return "weights are cast as they are used"
            if module.weight_function or module.bias_function:
                return "weights are patched as they are used"
        return None

    def __call__(self, *args: Any, **named: Any) -> Any:
        owner = self.owner
        if not owner.on or any(c.off for _, _, c in self.paths):
            return self.plain(*args, **named)
        if (reason := self.reason_now()) is not None:
            return self.without(reason)(*args, **named)
        given = tuple(map(without_place, args))
        other = {name: without_place(value) for name, value in named.items()}
        if (run := owner.function(self, given, other)) is None:
            owner.tell_once(MORE, str(MOST_SHAPES))
            return self.plain(*args, **named)
        try:
            with self.captured():
                return run(self.block, given, other)
        except owner.errors as error:
            log.debug("torch.compile: %s", error, exc_info=error)
            owner.refuse(self.kind, reason_of(error))
        return self.plain(*args, **named)

    def without(self, reason: str) -> Callable:
        """Returns the block's own forward, once it is said why it computes."""
        if self.owner.on:
            self.owner.leave_out(self, reason)
        return self.plain

    @contextmanager
    def captured(self) -> Iterator[None]:
        """Lets the block's layers compute inside in a way that torch can capture, with the paths of
        this pass. The modes of out_of_place.py are off: the compiler does what they do.
        """
        before = [(m, vars(m).pop("forward", None), type(m)) for m in self.modules[1:]]
        try:
            for module, _, kind in before:
                if is_adaptable(module):
                    module.__class__ = traced(kind)
            for module, row, component in self.paths:
                module.__dict__[PATH] = self.owner.path(row, component)
            with ExitStack() as stack:
                for _ in range(_len_torch_function_stack()):
                    stack.enter_context(_pop_mode_temporarily())
                yield
        finally:
            for module, forward, kind in before:
                module.__dict__.pop(PATH, None)
                if type(module) is not kind:
                    module.__class__ = kind
                if forward is not None:
                    module.forward = forward
