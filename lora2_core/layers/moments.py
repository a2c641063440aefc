"""What an optimizer remembers of a parameter, and how that follows the rank positions.

When positions are turned, scaled or change in number, so must all that is kept beside them: what
stands for gradients turns as gradients do, mean squares by squares, and copies of the parameter as
the parameter itself.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

GRADIENTS = {"exp_avg", "momentum_buffer", "s"}  # Adam's mean, SGD's momentum, Prodigy's sum
SQUARES = {"exp_avg_sq"}  # Adam's mean square
COPIES = {"ema", "p0"}  # the running mean of the weights, Prodigy's first weights
MOMENTS = GRADIENTS | SQUARES | COPIES
Moments = Callable[[Tensor], dict[str, Tensor]]


def moments_of(optimizer: torch.optim.Optimizer | None) -> Moments:
    """Gives what the optimizer remembers of a parameter by name, in the parameter's shape and
    memory; nothing where there is nothing yet.
    """

    def moments(parameter: Tensor) -> dict[str, Tensor]:
        state = optimizer.state.get(parameter, {}) if optimizer else {}
        return {k: state[k].view(parameter.shape) for k in state if follows(k, state, parameter)}

    return moments


def follows(name: str, state: dict, parameter: Tensor) -> bool:
    """Returns whether an entry of a parameter's state has a value for each of its entries (Prodigy
    says one zero where all are).
    """
    return name in MOMENTS and state[name].numel() == parameter.numel()


def turned(name: str, of_gradients: Tensor, of_values: Tensor, like: Tensor) -> Tensor:
    """Returns the matrix (or the factors) by which a moment turns, where gradients and the
    parameter turn by the given ones.
    """
    if name in COPIES:
        return of_values.to(like.dtype)
    return (of_gradients.square() if name in SQUARES else of_gradients).to(like.dtype)


def exchanged(
    parameter: nn.Parameter, size: int, dim: int, optimizer: torch.optim.Optimizer | None
) -> nn.Parameter:
    """Returns a new parameter of another size, in the optimizer too: autograd remembers the old
    one's.
    """
    fresh = nn.Parameter(resized(parameter.detach(), size, dim))
    if optimizer is not None:
        for group in optimizer.param_groups:
            group["params"] = [fresh if p is parameter else p for p in group["params"]]
        state = optimizer.state.pop(parameter, {})
        for name in [k for k in state if follows(k, state, parameter)]:
            moment = resized(state[name].view(parameter.shape), size, dim)
            state[name] = moment.view(-1) if state[name].ndim == 1 else moment
        optimizer.state[fresh] = state
    return fresh


def resized(tensor: Tensor, size: int, dim: int) -> Tensor:
    """Returns a copy with the first `size` entries of a dimension, zeros where there were none."""
    kept = min(size, tensor.shape[dim])
    shape = list(tensor.shape)
    shape[dim] = size
    fresh = tensor.new_zeros(shape)
    fresh.narrow(dim, 0, kept).copy_(tensor.narrow(dim, 0, kept))
    return fresh
