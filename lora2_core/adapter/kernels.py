"""The tensors of an adapted convolution as kernels, which is how files and torch have them."""

from __future__ import annotations

import math

from einops import rearrange
from torch import Tensor


def as_kernels(flat: Tensor, kernel: tuple[int, ...]) -> Tensor:
    """Returns [rows, channels * sides] as kernels [rows, channels, *kernel], of one to three
    sides.
    """
    return flat.reshape(len(flat), flat.shape[1] // math.prod(kernel), *kernel)


def as_point_kernels(up: Tensor, sides: int = 2) -> Tensor:
    """Returns lora_up [out, rank] as kernels of one point, [out, rank, 1, ...]."""
    return up.reshape(*up.shape, *[1] * sides)


def as_matrix(kernels: Tensor) -> Tensor:
    """Returns kernels [rows, ...] as [rows, channels * sides]; a matrix stays one."""
    return rearrange(kernels, "rows ... -> rows (...)")
