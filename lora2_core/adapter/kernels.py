"""The tensors of an adapted convolution as kernels, which is how files and torch have them."""

from __future__ import annotations

from einops import rearrange
from torch import Tensor


def as_kernels(flat: Tensor, kernel: tuple[int, int]) -> Tensor:
    """Returns [rows, channels * height * width] as kernels [rows, channels, height, width]."""
    height, width = kernel
    return rearrange(flat, "rows (c h w) -> rows c h w", h=height, w=width)


def as_point_kernels(up: Tensor) -> Tensor:
    """Returns lora_up [out, rank] as kernels of one pixel, [out, rank, 1, 1]."""
    return rearrange(up, "out rank -> out rank 1 1")


def as_matrix(kernels: Tensor) -> Tensor:
    """Returns kernels [rows, ...] as [rows, channels * height * width]; a matrix stays one."""
    return rearrange(kernels, "rows ... -> rows (...)")
