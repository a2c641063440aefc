"""Products of bf16 in fp32, for CPUs without bf16 arithmetic, where torch's own take some hundred
times as long: a step of SDXL would take an hour.

Results are bf16 as ever. Memory then holds the operands of one product in fp32 as well, whoever
trains: some 100 MB at SDXL. Seconds aren't those of bf16.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from contextlib import suppress

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_map_only

from tests.benchmarks.speed.pace import Work

aten = torch.ops.aten
ATTENTION = aten._scaled_dot_product_flash_attention_for_cpu  # its second result stays fp32
PRODUCTS = {
    aten.mm, aten.addmm, aten.bmm, aten.baddbmm, aten.convolution, aten.convolution_backward,
    ATTENTION, aten._scaled_dot_product_flash_attention_for_cpu_backward,
}  # fmt: skip
M_MMAP_THRESHOLD, OWN_PAGES = -3, 2**17  # of mallopt(3); bytes


def wider(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.float() if tensor.dtype == torch.bfloat16 else tensor


class Wide(TorchDispatchMode):
    """Within it products of bf16 are computed in fp32."""

    def __torch_dispatch__(self, op, types, args=(), kwargs=None):
        args, kwargs, kind = list(args), kwargs or {}, op.overloadpacket
        given = [a for a in args if isinstance(a, torch.Tensor)]
        if kind not in PRODUCTS or not any(t.dtype == torch.bfloat16 for t in given):
            return op(*args, **kwargs)
        found = op(*tree_map_only(torch.Tensor, wider, args), **kwargs)
        if kind is ATTENTION:
            return found[0].bfloat16(), *found[1:]
        return tree_map_only(torch.Tensor, torch.Tensor.bfloat16, found)


def leave_no_holes() -> None:
    """Large tensors get pages of their own and give them back (glibc): the operands come and go
    between tensors that stay, and the heap would keep their room.
    """
    with suppress(OSError, AttributeError):
        ctypes.CDLL(None).mallopt(M_MMAP_THRESHOLD, OWN_PAGES)


def with_fast_products(work: Work, dtype: torch.dtype) -> Work:
    """Training of a model of this dtype as it is fastest on this machine."""
    slow = dtype == torch.bfloat16 and not torch.cuda.is_available()
    if not slow or torch.ops.mkldnn._is_mkldnn_bf16_supported():
        return work

    def wide(steps: int, tick: Callable[[], None]) -> int:
        leave_no_holes()
        with Wide():
            return work(steps, tick)

    return wide
