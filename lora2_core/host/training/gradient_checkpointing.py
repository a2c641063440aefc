"""Gradient checkpointing of a host model's repeated blocks: their activations are computed again in
the backward pass instead of kept.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from ...layers.adapters import Adapters
from ...layers.layer import is_adaptable
from ...layers.passes import Passes
from .blocks import Block
from .compiled_block import INSIDE, OVERWRITES, CompiledBlock
from .offloading import Hold, Offload
from .out_of_place import OutOfPlace, writes_allowed
from .overwritten import is_copying, keep, overwrites
from .recomputing import Mode, Segment


def repeated_blocks(inner: nn.Module, adapted: set[nn.Module]) -> list[nn.Module]:
    """Returns the smallest entries of module lists that have an adapted layer inside, and another
    layer: the transformer blocks, in all models that the host has. An activation with the layer
    before it, as an entry of a feed-forward's list, is none.
    """

    def is_block(entry: nn.Module) -> bool:
        inside = [module for module in entry.modules() if module is not entry]
        return not adapted.isdisjoint(inside) and sum(map(is_adaptable, inside)) > 1

    def blocks(module: nn.Module) -> list[nn.Module]:
        lists = (m for m in module.modules() if isinstance(m, nn.ModuleList))
        return [entry for each in lists for entry in each if is_block(entry)]

    return [block for block in blocks(inner) if not blocks(block)]


@dataclass
class Way:
    """How blocks are computed twice.

    passes: those of the adapter. apart: whether nothing but the blocks' outputs has gradients, and
    no block writes over what it gets; the first pass then has no graph (blocks.py), which costs the
    host less. Else both passes have one (recomputing.py). mode: the context of that second pass,
    which runs in a thread of its own on a GPU. hold: keeps what a block gets. checked: whether a
    function is apart, of those that were called before.
    """

    passes: Passes
    apart: bool = True
    mode: Mode = OutOfPlace
    hold: Hold = keep
    checked: dict[Callable, bool] = field(default_factory=dict)

    def compute(self, forward: Callable, args: tuple, named: dict) -> Any:
        """Returns what a block computes, with gradients for which it is computed again."""
        plain = forward.plain if isinstance(forward, CompiledBlock) else forward
        kind = getattr(plain, "__func__", plain)
        if self.apart and not is_copying() and self.checked.get(kind, True):
            if kind not in self.checked:
                tried = Block(plain, args, named, self.hold)
                self.checked[kind] = tried.is_apart(self.passes)
            if self.checked[kind]:
                return Block(forward, args, named, self.hold).checkpointed(self.passes)
            self.passes.share_nothing()  # what is kept is counted, which sharing changes
        if isinstance(forward, CompiledBlock):
            forward.without(OVERWRITES if is_copying() else INSIDE)
        return Segment(plain, self.mode, self.hold)(*args, **named)

    def around(self, forward: Callable[..., Tensor]) -> Callable[..., Tensor]:
        """Returns the forward as one that is computed again in the backward pass.

        Blocks write into the dicts that they are given (transformer_options), so the second pass
        gets copies of what the first one got.
        """

        def call(*args, **named):
            if not torch.is_grad_enabled():
                return forward(*args, **named)
            return self.compute(forward, args, named)

        return call


@contextmanager
def checkpointed(blocks: list[nn.Module], way: Way) -> Iterator[None]:
    """Checkpoints the blocks' forward passes inside; afterwards they are as they were."""
    before = [vars(block).get("forward") for block in blocks]
    for block in blocks:
        block.forward = way.around(block.forward)
    try:
        yield
    finally:
        for block, own in zip(blocks, before, strict=True):
            if own is None:
                del block.forward
            else:
                block.forward = own


class GradientCheckpointing:
    """Checkpoints the blocks around an adapter's layers once it is turned on, before a run or
    between two of its steps, until the stack is left. `on`: whether it does.
    """

    def __init__(self, models: Sequence[nn.Module], adapters: Adapters, stack: ExitStack):
        self.models, self.adapters, self.stack, self.on = models, adapters, stack, False

    def turn_on(self, *, offload: bool = False) -> None:
        """Checkpoints from the next forward pass on. offload: what blocks get is kept in RAM."""
        hold = Offload().hold if offload else keep
        adapted = {component.module for component in self.adapters.components.values()}
        diffusion = [getattr(model, "diffusion_model", model) for model in self.models]
        # attention that is recorded in a block has gradients beside those of its outputs
        recorded = self.adapters.settings.attention_weight
        apart = not (recorded or any(map(overwrites, diffusion)))
        if not apart:
            self.adapters.paths.share_nothing()
        for model, inner in zip(self.models, diffusion, strict=True):
            way = Way(self.adapters.paths, apart, writes_allowed(inner), hold)
            self.stack.enter_context(checkpointed(repeated_blocks(model, adapted), way))
        self.on = True
