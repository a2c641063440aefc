"""Gradient checkpointing of a host model's repeated blocks: their activations are computed again in
the backward pass instead of kept.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint


def repeated_blocks(inner: nn.Module, adapted: set[nn.Module]) -> list[nn.Module]:
    """The smallest items of module lists that hold an adapted layer inside: transformer blocks, in
    all models that the host has.
    """

    def items(module: nn.Module) -> list[nn.Module]:
        lists = (m for m in module.modules() if isinstance(m, nn.ModuleList))
        found = (item for each in lists for item in each)
        return [i for i in found if any(m in adapted for m in i.modules() if m is not i)]

    return [item for item in items(inner) if not items(item)]


def recomputed(forward: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """The forward with a checkpoint around it. Blocks write into the dicts that they are handed
    (transformer_options), so each pass gets copies of what the first one got.
    """

    def call(*args, **kwargs):
        args, kwargs = tuple(map(copied, args)), {k: copied(v) for k, v in kwargs.items()}

        def once_more(*args, **kwargs):
            return forward(*map(copied, args), **{k: copied(v) for k, v in kwargs.items()})

        return checkpoint(once_more, *args, use_reentrant=False, preserve_rng_state=False, **kwargs)

    return call


def copied(value):
    return dict(value) if isinstance(value, dict) else value


@contextmanager
def checkpointed(blocks: list[nn.Module]) -> Iterator[None]:
    """Inside, the blocks' forward passes are checkpointed; afterwards they are as they were."""
    before = [vars(block).get("forward") for block in blocks]
    for block in blocks:
        block.forward = recomputed(block.forward)
    try:
        yield
    finally:
        for block, own in zip(blocks, before, strict=True):
            if own is None:
                del block.forward
            else:
                block.forward = own
