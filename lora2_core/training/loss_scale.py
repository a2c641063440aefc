"""Keeping fp16 gradients from vanishing: the loss is multiplied before backward, gradients divided
after.

The factor is a power of two, halved when gradients overflow although the loss is finite, doubled
after GROWTH good steps (Micikevicius et al. 2018, arXiv 1710.03740). In fp32 and bf16 it is 1 and
does nothing.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

FIRST, LARGEST, GROWTH = 2.0**14, 2.0**16, 200


class LossScale:
    """A scale of the loss that follows what fp16 can hold."""

    def __init__(self, enabled: bool):
        self.value = FIRST if enabled else 1.0
        self.enabled = enabled
        self.good = 0

    def backward(self, loss: Tensor, parameters: Sequence[Tensor]) -> None:
        """Backward of the scaled loss; the parameters' gradients come out unscaled."""
        (loss * self.value).backward()
        gradients = [p.grad for p in parameters if p.grad is not None]
        if self.value != 1.0 and gradients:
            torch._foreach_div_(gradients, self.value)

    def step_was_good(self) -> None:
        """Doubles the scale now and then."""
        self.good += 1
        if self.enabled and self.good % GROWTH == 0:
            self.value = min(LARGEST, 2 * self.value)

    def overflowed(self) -> bool:
        """Halves the scale; False when there was none left to give, so the fault lies elsewhere."""
        if self.value <= 1.0:
            return False
        self.value /= 2
        self.good = 0
        return True
