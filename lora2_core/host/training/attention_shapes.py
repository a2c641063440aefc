"""Attention of which only the shapes matter, for passes on torch's device "meta"."""

from __future__ import annotations

from collections.abc import Callable

import torch
from comfy.ldm.modules.attention import attention_pytorch
from torch import Tensor
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode


class ShapesOfAttention(TorchFunctionMode):
    """Computes scaled_dot_product_attention as a GPU's kernels do: the backward pass gets queries,
    keys, values and the output, no matrix of all pairs.
    """

    def __torch_function__(self, func, types, args=(), kwargs=None):
        if func is F.scaled_dot_product_attention:
            return Attention.apply(*args[:3])
        return func(*args, **(kwargs or {}))


class Attention(torch.autograd.Function):
    """Computes an attention of which only the shapes matter."""

    @staticmethod
    def forward(ctx, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        batch, heads, length = q.shape[:3]
        out = q.new_empty(batch, length, heads, v.shape[-1]).transpose(1, 2)
        sums = q.new_empty(batch, heads, length, dtype=torch.float32)
        ctx.save_for_backward(q, k, v, out, sums)
        return out

    @staticmethod
    def backward(ctx, gradient: Tensor) -> tuple[Tensor, ...]:
        return tuple(torch.empty_like(t) for t in ctx.saved_tensors[:3])


def torchs_attention(_chosen: Callable, *args, **kwargs) -> Tensor:
    """Computes attention by scaled_dot_product_attention, whatever the host has chosen."""
    return attention_pytorch(*args, **kwargs)
