"""Lets the repeated blocks of a host model compute as torch.compile makes them, while an adapter is
trained.

A block is compiled as one function of its weights, of what its layers' paths compute with, and of
what it gets. Blocks of one kind and shape share it. It sees tensors of one shape however the ranks
move (`Component.keeps`), so it is not compiled again then. What can't be compiled computes as ever.
"""

from __future__ import annotations

import traceback
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, closing
from types import FunctionType

import torch
from torch import Tensor, nn

from ...adapter.origin import Note
from ...layers.adapters import Adapters
from ...layers.folding import path_dtype
from ...layers.joined import Lent, Pair
from ...layers.layer import Component
from ...layers.unit import Unit
from ...saying import log
from ...training.run import Run, Step
from .attention import OVERRIDE
from .blocks import tensors_of
from .compiled_block import INSIDE, MOST_SHAPES, CompiledBlock
from .compiler import backend, errors, forget, reason_against, reason_of
from .gradient_checkpointing import repeated_blocks
from .loan import Loan
from .traced import own_copy

PATCHES = ("patches", "patches_replace")
WITHOUT = "torch.compile is not used: {0}."
PARTLY = "{0} of {1} blocks are computed without torch.compile: {2}."
SOME = "Some blocks are computed without torch.compile: {0}."
OTHERS = "another node computes them"


class CompiledBlocks:
    """Compiles blocks around an adapter's layers. on: whether they compute so now, which is in the
    steps of a run; what is computed between two steps has other shapes, and no gradients. like: is
    where the adapter is, in the dtype that the model computes in.

    say: is called with a sentence where something is computed without.
    """

    def __init__(self, loan: Loan, adapters: Adapters, say: Callable[[Note], None]):
        self.adapters, self.frozen, self.say, self.on = adapters, loan.frozen, say, False
        self.like = torch.empty(0, dtype=loan.inner.get_dtype_inference(), device=adapters.device)
        self.errors = errors()
        self.numbers: dict[nn.Module, tuple[int, Component]] = {
            component.module: (row, component)
            for row, component in enumerate(adapters.components.values())
        }
        self.blocks: list[CompiledBlock] = []
        self.functions: dict[tuple, dict[tuple, Callable]] = {}
        self.copies: list[FunctionType] = []
        self.zeros: dict[tuple[torch.Size, torch.dtype], Tensor] = {}
        self.left_out: set[CompiledBlock] = set()
        self.said: set[tuple] = set()

    def install(self, blocks: list[nn.Module], stack: ExitStack) -> None:
        """Compiles these blocks from now on, until the stack is left."""
        stack.callback(forget, self.copies)
        free = [block for block in blocks if "forward" not in vars(block)]
        if len(free) < len(blocks):
            tell(self.say, PARTLY, str(len(blocks) - len(free)), str(len(blocks)), OTHERS)
        for block in free:
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
            if not run.between_steps or run.processes is not None:  # others would be left waiting
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
        of_kind = self.functions.setdefault(block.kind, {})
        key = torch.is_grad_enabled(), flags
        if key not in of_kind:
            if sum(graph == key[0] for graph, _ in of_kind) >= MOST_SHAPES:
                return None
            own = own_copy(f"block_{len(self.functions)}_{len(of_kind)}")
            self.copies.append(own)
            of_kind[key] = torch.compile(own, backend=backend, fullgraph=True, dynamic=False)
        return of_kind[key]

    def path(self, row: int, component: Component) -> tuple[Tensor, Tensor]:
        """Returns what the path of a layer computes with in this pass."""
        passes = self.adapters.paths
        dtype = passes.dtypes[row] or path_dtype(self.like)
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

    def tell_once(self, *note: str) -> None:
        """Says a sentence, unless it was said before."""
        if note not in self.said:
            self.said.add(note)
            tell(self.say, *note)

    def leave_out(self, block: CompiledBlock, reason: str) -> None:
        """Computes a block without, and says of how many that is so."""
        if block in self.left_out:
            return
        if reason == INSIDE:  # which all blocks of a kind share; others hold for each alone
            same = [b for b in self.blocks if b.kind == block.kind]
        else:
            same = [b for b in self.blocks if b is block or b.reason_now() == reason]
        for one in same:
            one.keep(False)
        self.left_out.update(same)
        tell(self.say, PARTLY, str(len(same)), str(len(self.blocks)), reason)

    def give_up(self, reason: str) -> None:
        """Computes everything without from now on."""
        for block in self.blocks:
            block.refuse(reason)
        self.tell_once(WITHOUT, reason)

    def refuse(self, kind: tuple, reason: str) -> None:
        """Computes all blocks of a kind without from now on."""
        for block in self.blocks:
            if block.kind == kind:
                block.refuse(reason)
                self.left_out.add(block)
        self.tell_once(SOME, reason)


def tell(say: Callable[[Note], None], *note: str) -> None:
    """Says a sentence, in the log too."""
    log.warning(note[0].format(*note[1:]))
    say(list(note))


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
        tell(say, WITHOUT, reason)
        return None
    made = CompiledBlocks(loan, adapters, say)
    made.install(blocks, stack)
    return made
