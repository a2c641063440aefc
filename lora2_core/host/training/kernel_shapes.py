"""Operations of which only the shapes matter, for passes on torch's device "meta": they keep there
what a GPU's kernels keep.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from comfy.ldm.modules.attention import attention_pytorch
from torch import Tensor
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

# older versions of torch compute an RMS norm by several operations on a GPU too
ONE_KERNEL = hasattr(torch.ops.aten, "_fused_rms_norm_backward")


class ShapesOfKernels(TorchFunctionMode):
    """Computes attention and RMS norms as a GPU's kernels do. The backward pass of attention gets
    queries, keys, values and the output, no matrix of all pairs; that of a norm gets its input, no
    copy in fp32.
    """

    def __torch_function__(self, func, types, args=(), kwargs=None):
        if func is F.scaled_dot_product_attention:
            return Attention.apply(*args[:3])
        if ONE_KERNEL and func in (F.rms_norm, torch.rms_norm):
            weight = args[2] if len(args) > 2 else (kwargs or {}).get("weight")
            return Norm.apply(args[0], weight)
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


class Norm(torch.autograd.Function):
    """Computes an RMS norm of which only the shapes matter, over the last dimension."""

    @staticmethod
    def forward(ctx, x: Tensor, weight: Tensor | None) -> Tensor:
        ctx.save_for_backward(x, x.new_empty(x.shape[:-1], dtype=torch.float32), weight)
        return torch.empty_like(x)

    @staticmethod
    def backward(ctx, gradient: Tensor) -> tuple[Tensor, None]:
        return torch.empty_like(gradient), None


def torchs_attention(_chosen: Callable, *args, **kwargs) -> Tensor:
    """Computes attention by scaled_dot_product_attention, whatever the host has chosen."""
    return attention_pytorch(*args, **kwargs)
