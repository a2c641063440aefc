"""Gradient checkpointing of a host model's repeated blocks: their activations are computed again in
the backward pass instead of kept.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager

import torch
from torch import Tensor, nn

from ...layers.adapters import Adapters
from .offloading import Offload
from .out_of_place import OutOfPlace, writes_allowed
from .overwritten import keep
from .recomputing import Hold, Mode, Segment


def repeated_blocks(inner: nn.Module, adapted: set[nn.Module]) -> list[nn.Module]:
    """Returns the smallest entries of module lists that have an adapted layer inside: the
    transformer blocks, in all models that the host has.
    """

    def blocks(module: nn.Module) -> list[nn.Module]:
        lists = (m for m in module.modules() if isinstance(m, nn.ModuleList))
        entries = (entry for each in lists for entry in each)
        return [e for e in entries if any(m in adapted for m in e.modules() if m is not e)]

    return [block for block in blocks(inner) if not blocks(block)]


def recomputed(
    forward: Callable[..., Tensor], mode: Mode = OutOfPlace, hold: Hold = keep
) -> Callable[..., Tensor]:
    """Returns the forward as one that is computed again in the backward pass. mode: the context of
    that pass, which runs in a thread of its own on a GPU. hold: keeps what the block gets.
    """

    def call(*args, **named):
        if not torch.is_grad_enabled():
            return forward(*args, **named)
        return Segment(forward, mode, hold)(*args, **named)

    return call


@contextmanager
def checkpointed(
    blocks: list[nn.Module], mode: Mode = OutOfPlace, hold: Hold = keep
) -> Iterator[None]:
    """Checkpoints the blocks' forward passes inside; afterwards they are as they were."""
    before = [vars(block).get("forward") for block in blocks]
    for block in blocks:
        block.forward = recomputed(block.forward, mode, hold)
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
        for model in self.models:
            mode = writes_allowed(getattr(model, "diffusion_model", model))
            self.stack.enter_context(checkpointed(repeated_blocks(model, adapted), mode, hold))
        self.on = True
