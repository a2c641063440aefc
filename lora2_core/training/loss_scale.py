"""A scale that keeps fp16 gradients from vanishing: it multiplies the loss before the backward pass
and divides the gradients after it.

It is a power of two. It is halved when gradients overflow although the loss is finite, and doubled
after GROWTH good steps (Micikevicius et al. 2018, arXiv 1710.03740). In fp32 and bf16 it is 1 and
does nothing.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

# the first and the largest scale; the largest fp16 number is about 2**16. Runs are short, so both
# this start and GROWTH are lower than torch's GradScaler has them (2**16, 2000): fewer steps are
# lost
FIRST, LARGEST = 2.0**14, 2.0**16
# good steps between two doublings
GROWTH = 200


def wholes(tensors: Sequence[Tensor]) -> list[Tensor]:
    """Returns tensors with the same values: in place of all parts of another one, that one. A GPU
    has less to do where they are few.
    """
    parts: dict[int, list[Tensor]] = {}
    for tensor in tensors:
        base = tensor._base
        parts.setdefault(id(tensor if base is None else base), []).append(tensor)
    found: list[Tensor] = []
    for some in parts.values():
        base = some[0]._base
        whole = base is not None and base.numel() == sum(t.numel() for t in some)
        found += [base] if whole else some
    return found


class LossScale:
    """The scale of the loss; 1 for good unless `enabled`."""

    def __init__(self, enabled: bool):
        self.value = FIRST if enabled else 1.0
        self.enabled = enabled
        self.good = 0

    def backward(self, loss: Tensor, parameters: Sequence[Tensor]) -> None:
        """Runs the backward pass of the scaled loss; the parameters' gradients come out
        unscaled.
        """
        (loss * self.value).backward()
        if self.value == 1.0:
            return
        if gradients := wholes([p.grad for p in parameters if p.grad is not None]):
            torch._foreach_div_(gradients, self.value)

    def step_was_good(self) -> None:
        """Counts a good step, and doubles the scale after GROWTH of them."""
        self.good += 1
        if self.enabled and self.good % GROWTH == 0:
            self.value = min(LARGEST, 2 * self.value)

    def overflowed(self) -> bool:
        """Halves the scale and returns True; False when it is 1 already, so that the overflow has
        another cause.
        """
        if self.value <= 1.0:
            return False
        self.value /= 2
        self.good = 0
        return True
