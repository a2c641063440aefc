"""What torch does around an operation of autograd, kept short: a step has hundreds of them, and a
GPU waits for the host meanwhile.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable


class Operation(torch.autograd.Function):
    """Computes an operation that no transform of torch.func goes through: torch looks for these in
    every argument of every call, which takes it a third of the time of the call.
    """

    @classmethod
    def apply(cls, *args: Any) -> Any:
        return super(torch.autograd.Function, cls).apply(*args)


def once(gradients: Callable[..., tuple]) -> Callable[..., tuple]:
    """Returns the backward pass of an operation whose gradients have none themselves. It is torch's
    once_differentiable, whose work is left out where no graph of gradients is made.
    """
    with_graph = once_differentiable(gradients)

    def backward(ctx: Any, *given: Tensor | None) -> tuple:
        return (with_graph if torch.is_grad_enabled() else gradients)(ctx, *given)

    return backward
