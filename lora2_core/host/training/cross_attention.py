"""Records what a host model's cross-attention looks at, for the attention loss."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from einops import rearrange
from torch import Tensor, nn

from ...training.attention import EntropyRecord


@contextmanager
def recorded_attention(
    inner: nn.Module, record: EntropyRecord, others: Callable | None = None
) -> Iterator[Callable]:
    """Yields an `optimized_attention_override` that records every call made inside a module named
    attn2. `others`: the override that then computes, None for the host's own attention.

    Lengths alone don't tell cross- from self-attention, so hooks on the modules do; results stay as
    they are.
    """
    inside = False

    def enter(*_):
        nonlocal inside
        inside = True

    def leave(*_):
        nonlocal inside
        inside = False

    def override(func, q, k, v, heads, *args, **kwargs):
        if inside:
            apart = kwargs.get("skip_reshape")
            record.record(*((q, k) if apart else (split_heads(q, heads), split_heads(k, heads))))
        if others is not None:
            return others(func, q, k, v, heads, *args, **kwargs)
        return func(q, k, v, heads, *args, **kwargs)

    modules = [m for name, m in inner.named_modules() if name.endswith("attn2")]
    handles = [m.register_forward_pre_hook(enter) for m in modules]
    handles += [m.register_forward_hook(leave) for m in modules]
    try:
        yield override
    finally:
        for handle in handles:
            handle.remove()


def split_heads(x: Tensor, heads: int) -> Tensor:
    """Returns [B, tokens, heads * width] as [B, heads, tokens, width]."""
    return rearrange(x, "b tokens (heads width) -> b heads tokens width", heads=heads)
