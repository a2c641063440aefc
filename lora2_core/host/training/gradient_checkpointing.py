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
from .out_of_place import OutOfPlace, overwriting_refused
from .overwritten import overwrites

UNCHECKPOINTED = (
    "This model writes over values that its gradients need, so it can't be trained with gradient "
    "checkpointing: turn it off in LoRA2 Memory Options, and lower start_rank or the resolution "
    "where memory is too little."
)


def repeated_blocks(inner: nn.Module, adapted: set[nn.Module]) -> list[nn.Module]:
    """Returns the smallest entries of module lists that have an adapted layer inside: the
    transformer blocks, in all models that the host has.
    """

    def blocks(module: nn.Module) -> list[nn.Module]:
        lists = (m for m in module.modules() if isinstance(m, nn.ModuleList))
        entries = (entry for each in lists for entry in each)
        return [e for e in entries if any(m in adapted for m in e.modules() if m is not e)]

    return [block for block in blocks(inner) if not blocks(block)]


def recomputed(forward: Callable[..., Tensor], checked: set | None = None) -> Callable[..., Tensor]:
    """Returns the forward with a checkpoint around it, checked first unless its function is in
    `checked`.

    Blocks write into the dicts that they are given (transformer_options), so each pass gets copies
    of what the first one got. They also write into tensors, which no check would see here: autograd
    runs the second pass, on a GPU in a thread of its own.
    """
    checked = set() if checked is None else checked

    def call(*args, **kwargs):
        if not torch.is_grad_enabled():
            return forward(*args, **kwargs)
        args, kwargs = tuple(map(copied, args)), {k: copied(v) for k, v in kwargs.items()}

        def once_more(*args, **kwargs):
            with OutOfPlace():
                return forward(*map(copied, args), **{k: copied(v) for k, v in kwargs.items()})

        if (kind := getattr(forward, "__func__", forward)) not in checked:
            check_gradients(once_more, args, kwargs)
            checked.add(kind)
        return checkpoint(once_more, *args, use_reentrant=False, preserve_rng_state=False, **kwargs)

    return call


def check_gradients(forward: Callable, args: tuple, kwargs: dict) -> None:
    """Raises ValueError where a block writes over what its gradients need. Nothing would see that
    in a pass that is computed again, so this runs one pass on copies that keeps its activations. No
    attention is recorded.
    """
    leaves: list[Tensor] = []

    def fresh(value):
        if isinstance(value, dict):
            return {k: v for k, v in value.items() if k != "optimized_attention_override"}
        if not torch.is_tensor(value) or not value.is_floating_point():
            return value
        leaves.append(value.detach().requires_grad_())
        return leaves[-1].clone()

    out = forward(*map(fresh, args), **{k: fresh(v) for k, v in kwargs.items()})
    outs = [t for t in (out if isinstance(out, (tuple, list)) else [out]) if torch.is_tensor(t)]
    with overwriting_refused(UNCHECKPOINTED):
        torch.autograd.grad(sum(t.sum() for t in outs), leaves, allow_unused=True)


def copied(value):
    """Returns a copy of a dict, and anything else itself."""
    return dict(value) if isinstance(value, dict) else value


@contextmanager
def checkpointed(blocks: list[nn.Module]) -> Iterator[None]:
    """Checkpoints the blocks' forward passes inside; afterwards they are as they were."""
    before, checked = [vars(block).get("forward") for block in blocks], set()
    for block in blocks:
        block.forward = recomputed(block.forward, checked)
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
        self.stack.enter_context(checkpointed(blocks))
        self.on = True
