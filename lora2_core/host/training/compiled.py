"""Lets the repeated blocks of a host model compute as torch.compile makes them, while an adapter is
trained.

A block is compiled as one function of its weights, of what its layers' paths compute with, and of
what it gets. Blocks of one kind and shape share it. It sees tensors of one shape however the ranks
move (`Component.keeps`), so it is not compiled again then. What can't be compiled computes as ever.
"""

from __future__ import annotations

import traceback
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, closing, contextmanager
from types import FunctionType
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import _len_torch_function_stack, _pop_mode_temporarily

from ...adapter.origin import Note
from ...layers.adapters import Adapters
from ...layers.folding import path_dtype
from ...layers.joined import Lent, Pair
from ...layers.layer import Component, is_adaptable
from ...layers.unit import Unit
from ...saying import log
from ...training.run import Run, Step
from .attention import OVERRIDE
from .blocks import tensors_of
from .compiler import backend, errors, forget, reason_against, reason_of
from .frozen import HostFrozen
from .gradient_checkpointing import repeated_blocks
from .loan import Loan
from .overwritten import is_copying
from .traced import PATH, own_copy, traced, without_place

PATCHES = ("patches", "patches_replace")
# of one kind of block: pictures and captions of other shapes are compiled apart, which takes a
# minute each on a CPU; more of them are computed as ever
MOST_SHAPES = 16
WITHOUT = "torch.compile is not used: {0}."
PARTLY = "{0} of {1} blocks are computed without torch.compile: {2}."


class CompiledBlock:
    """One repeated block, in the place of its forward. plain: that forward.

    layers: those that the host computes, by how they do on loan. paths: the adapter's layers among
    them, with their numbers.
    """

    def __init__(self, owner: CompiledBlocks, block: nn.Module):
        self.owner, self.block, self.plain = owner, block, block.forward
        self.modules = list(block.modules())
        numbers = owner.numbers
        self.paths = [(m, *numbers[m]) for m in self.modules if m in numbers]
        self.layers = [owner.frozen.layers[m] for m in self.modules if m in owner.frozen.layers]
        self.kind: list[tuple] = [(type(block), *(c.capacity for _, _, c in self.paths))]
        for m in self.modules:
            shapes = [tuple(p.shape) for p in m._parameters.values() if p is not None]
            self.kind.append((type(m), m in numbers, *shapes))
        self.refused: str | None = None
        if not all(map(self.is_known, self.modules[1:])):
            self.refused = "a layer computes in a way of its own"

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
        device = self.owner.adapters.device
        for layer in self.layers:
            module, weight = layer.module, layer.module._parameters.get("weight")
            frozen = isinstance(layer, HostFrozen)
            elsewhere = frozen if weight is None else weight.device != device
            if elsewhere or "_v" in module.__dict__:
                return "weights lie in RAM"
            if frozen and weight.dtype != self.owner.dtype:  # the compiler would keep the copies
                return "weights are cast as they are used"
            if module.weight_function or module.bias_function:
                return "weights are patched as they are used"
        return None

    def __call__(self, *args: Any, **named: Any) -> Any:
        owner = self.owner
        if not owner.on or is_copying() or any(c.off for _, _, c in self.paths):
            return self.plain(*args, **named)
        if (reason := self.reason_now()) is None:
            given = tuple(map(without_place, args))
            other = {name: without_place(value) for name, value in named.items()}
            if (run := owner.function(self, given, other)) is None:
                reason = f"there are more than {MOST_SHAPES} shapes"
            else:
                try:
                    with self.captured():
                        return run(self.block, given, other)
                except owner.errors as error:
                    log.debug("torch.compile: %s", error, exc_info=error)
                    reason = reason_of(error)
                    owner.refuse(self.kind, reason)
        owner.leave_out(self, reason)
        return self.plain(*args, **named)

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


class CompiledBlocks:
    """Compiles blocks around an adapter's layers. on: whether they compute so now, which is in the
    steps of a run; what is computed between two steps has other shapes, and no gradients.

    say: is called with a sentence where something is computed without.
    """

    def __init__(self, loan: Loan, adapters: Adapters, say: Callable[[Note], None]):
        self.adapters, self.frozen, self.say, self.on = adapters, loan.frozen, say, False
        self.dtype = loan.inner.get_dtype_inference()
        self.errors = errors()
        self.numbers: dict[nn.Module, tuple[int, Component]] = {
            component.module: (row, component)
            for row, component in enumerate(adapters.components.values())
        }
        self.blocks: list[CompiledBlock] = []
        self.functions: dict[tuple, dict[tuple, Callable]] = {}
        self.copies: list[FunctionType] = []
        self.zeros: dict[tuple[torch.Size, torch.dtype], Tensor] = {}
        self.left_out: dict[CompiledBlock, str] = {}
        self.said: set[str] = set()
        for component in adapters.components.values():
            component.keeps = True

    def install(self, blocks: list[nn.Module], stack: ExitStack) -> None:
        """Compiles these blocks from now on, until the stack is left."""
        stack.callback(forget, self.copies)
        for block in blocks:
            if "forward" in vars(block):
                continue
            self.blocks.append(CompiledBlock(self, block))
            block.forward = self.blocks[-1]
            stack.callback(self.take_away, block)

    def take_away(self, block: nn.Module) -> None:
        """Gives a block its own forward back."""
        self.on = False
        del block.forward

    def steps(self, run: Run, steps: Callable[[], Iterator[Step]]) -> Iterator[Step]:
        """Yields the steps of a run, computed compiled. One whose gradients can't be compiled is
        computed again without, and so are all that follow.
        """
        try:
            yield from self.compiled(steps)
            return
        except self.errors as error:
            if not run.between_steps:
                raise
            traceback.clear_frames(error.__traceback__)
            self.give_up(reason_of(error))
        yield from steps()

    def compiled(self, steps: Callable[[], Iterator[Step]]) -> Iterator[Step]:
        """Yields steps that are computed compiled; what is done between two of them is not."""
        with closing(steps()) as every:
            while True:
                self.on = True
                try:
                    step = next(every, None)
                finally:
                    self.on = False
                if step is None:
                    return
                yield step

    def function(self, block: CompiledBlock, args: tuple, named: dict) -> Callable | None:
        """Returns the compiled function for a block and what it gets, one for each shape of that;
        None where there are too many.
        """
        flags = tuple((t.shape, t.dtype, t.requires_grad) for t in tensors_of((args, named)))
        of_kind = self.functions.setdefault(tuple(block.kind), {})
        key = torch.is_grad_enabled(), flags
        if key not in of_kind:
            if len(of_kind) >= MOST_SHAPES:
                return None
            own = own_copy(f"block_{len(self.functions)}_{len(of_kind)}")
            self.copies.append(own)
            of_kind[key] = torch.compile(own, backend=backend, fullgraph=True, dynamic=False)
        return of_kind[key]

    def path(self, row: int, component: Component) -> tuple[Tensor, Tensor]:
        """Returns what the path of a layer computes with in this pass."""
        passes = self.adapters.paths
        like = torch.empty(0, dtype=self.dtype, device=component.lora_down.device)
        dtype = passes.dtypes[row] or path_dtype(like)
        if component.rank:
            pair = passes.pair(row, dtype)
        else:  # a layer that was given up has the tensors, and they change nothing
            unit = Unit([0], [component.capacity], self.no_path(component.lora_down, dtype))
            unit.take([self.no_path(component.lora_up, dtype)])
            pair = Pair(unit, 0, passes.begun().origin)
        return Lent.apply(pair.origin, pair)

    def no_path(self, like: Tensor, dtype: torch.dtype) -> Tensor:
        """Returns zeros in the shape of a parameter."""
        key = like.shape, dtype
        if key not in self.zeros:
            self.zeros[key] = torch.zeros(like.shape, dtype=dtype, device=like.device)
        return self.zeros[key]

    def leave_out(self, block: CompiledBlock, reason: str) -> None:
        """Says once that a block is computed without."""
        if block in self.left_out:
            return
        self.left_out[block] = reason
        if reason not in self.said:
            self.said.add(reason)
            same = [b for b in self.blocks if b.kind == block.kind or b.reason_now() == reason]
            note = [PARTLY, str(len(same)), str(len(self.blocks)), reason]
            log.warning(PARTLY.format(*note[1:]))
            self.say(note)

    def give_up(self, reason: str) -> None:
        """Computes everything without from now on."""
        for block in self.blocks:
            block.refused = block.refused or reason
        for block in self.blocks:
            self.leave_out(block, block.refused)

    def refuse(self, kind: list, reason: str) -> None:
        """Computes all blocks of a kind without from now on."""
        for block in self.blocks:
            if block.kind == kind:
                block.refused = block.refused or reason


def reason_to_refuse(options: Mapping, device: torch.device, *, records: bool) -> str | None:
    """Returns why nothing of a run can be compiled, None where it can. options: the model's own
    transformer_options. records: whether attention is recorded.
    """
    if records:
        return "the attention loss looks into the blocks"
    if options.get(OVERRIDE) is not None:
        return "another node computes the model's attention"
    if any(options.get(name) for name in PATCHES):
        return "other nodes patch the model's blocks"
    return reason_against(device)


def compiled_blocks(
    loan: Loan, adapters: Adapters, say: Callable[[Note], None], stack: ExitStack
) -> CompiledBlocks | None:
    """Compiles the blocks around an adapter's layers until the stack is left. Says why where that
    can't be, and returns None.
    """
    options = loan.patcher.model_options.get("transformer_options", {})
    blocks = repeated_blocks(loan.inner, {c.module for c in adapters.components.values()})
    records = bool(adapters.settings.attention_weight)
    reason = reason_to_refuse(options, adapters.device, records=records)
    if reason is None and not blocks:
        reason = "no layer that is trained is in a block that repeats"
    if reason is not None:
        log.warning(WITHOUT.format(reason))
        say([WITHOUT, reason])
        return None
    made = CompiledBlocks(loan, adapters, say)
    made.install(blocks, stack)
    return made
