"""A scale that keeps fp16 gradients from vanishing: it multiplies the loss before the backward pass
and divides the gradients after it.

It is a power of two. It is halved when gradients overflow although the loss is finite, and doubled
after GROWTH good steps (Micikevicius et al. 2018, arXiv 1710.03740). In fp32 and bf16 it is 1 and
does nothing.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

# the first and the largest scale; the largest fp16 number is about 2**16. Runs are short, so both
# this start and GROWTH are lower than torch's GradScaler has them (2**16, 2000): fewer steps are
# lost
FIRST, LARGEST = 2.0**14, 2.0**16
# good steps between two doublings
GROWTH = 200


class LossScale:
    """The scale of the loss; 1 for good unless `enabled`."""

    def __init__(self, enabled: bool):
        self.value = FIRST if enabled else 1.0
        self.enabled = enabled
        self.good = 0

    def backward(self, loss: Tensor, gradients: Callable[[], list[Tensor]]) -> None:
        """Runs the backward pass of the scaled loss. gradients: gives those that it makes, which
        come out unscaled.
        """
        (loss * self.value).backward()
        if self.value != 1.0 and (found := gradients()):
            torch._foreach_div_(found, self.value)

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
