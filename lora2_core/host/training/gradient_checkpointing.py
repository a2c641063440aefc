"""Gradient checkpointing of a host model's repeated blocks: their activations are computed again in
the backward pass instead of kept.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from ...layers.adapters import Adapters
from ...layers.passes import Passes
from .blocks import UNCHECKPOINTED, Block, mapped, tensors_of
from .out_of_place import OutOfPlace, overwriting_refused
from .overwritten import overwrites


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
    forward: Callable[..., Tensor], passes: Passes, checked: dict[Callable, bool], apart: bool
) -> Callable[..., Tensor]:
    """Returns the forward with a checkpoint around it; see `checkpointed`. checked: whether a
    function is apart, of those that were called before.

    Blocks write into the dicts that they are given (transformer_options), so each pass gets copies
    of what the first one got.
    """

    def call(*args, **kwargs):
        if not torch.is_grad_enabled():
            return forward(*args, **kwargs)
        block = Block(forward, args, kwargs)
        kind = getattr(forward, "__func__", forward)
        if kind not in checked:
            checked[kind] = apart and block.is_apart(passes)
            if not checked[kind]:
                passes.groups = []  # torch counts what is kept, which sharing changes
                with passes.during(None):
                    check_gradients(block)
        if checked[kind]:
            return block.checkpointed(passes)
        options = {"use_reentrant": False, "preserve_rng_state": False}
        return checkpoint(block.out_of_place, *block.tensors, **options)

    return call


def check_gradients(block: Block) -> None:
    """Raises ValueError where a block writes over what its gradients need. Nothing would see that
    in torch's own checkpoint, so this runs one pass on copies that keeps its activations. No
    attention is recorded.
    """
    leaves: list[Tensor] = []

    def fresh(tensor: Tensor) -> Tensor:
        if not tensor.is_floating_point():
            return tensor
        leaves.append(tensor.detach().requires_grad_())
        return leaves[-1].clone()

    args, kwargs = mapped(block.arguments, fresh)
    for value in (*args, *kwargs.values()):
        if isinstance(value, dict):
            value.pop("optimized_attention_override", None)
    with OutOfPlace():
        outs = tensors_of(block.forward(*args, **kwargs))
    with overwriting_refused(UNCHECKPOINTED):
        torch.autograd.grad(sum(t.sum() for t in outs), leaves, allow_unused=True)


@contextmanager
def checkpointed(blocks: list[nn.Module], passes: Passes, *, apart: bool = True) -> Iterator[None]:
    """Checkpoints the blocks' forward passes inside; afterwards they are as they were. passes:
    those of the adapter. apart: whether nothing but the blocks' outputs has gradients; else torch's
    own checkpoint is used, which takes longer.
    """
    before, checked = [vars(block).get("forward") for block in blocks], {}
    for block in blocks:
        block.forward = recomputed(block.forward, passes, checked, apart)
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

    def turn_on(self) -> None:
        """Checkpoints from the next forward pass on. Raises ValueError for a model that writes over
        what its gradients need: what is computed again would be wrong without a word.
        """
        if any(overwrites(getattr(model, "diffusion_model", model)) for model in self.models):
            raise ValueError(UNCHECKPOINTED)
        adapted = {component.module for component in self.adapters.components.values()}
        blocks = [block for model in self.models for block in repeated_blocks(model, adapted)]
        # attention that is recorded in a block has gradients beside those of its outputs
        apart = not self.adapters.settings.attention_weight
        if not apart:
            self.adapters.paths.share_nothing()
        self.stack.enter_context(checkpointed(blocks, self.adapters.paths, apart=apart))
        self.on = True
