"""The moments that an optimizer keeps of a parameter, and how they follow the rank positions.

When positions are turned, scaled or change in number, their moments must do the same: sums of
gradients turn as gradients do, mean squares by the squares, copies of the parameter as the
parameter does. What an optimizer keeps in another form, such as in eight bits or by row and column,
can't: it is forgotten where positions turn or change in number, and the optimizer begins anew
there.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from einops import pack, unpack
from torch import Tensor, nn

# keys of an optimizer's state: means and sums of gradients (Adam, SGD, Prodigy)
GRADIENTS = {"exp_avg", "momentum_buffer", "s"}
# means, sums and maxima of squared gradients (Adam, RMSprop, Adagrad, AMSGrad)
SQUARES = {"exp_avg_sq", "square_avg", "sum", "max_exp_avg_sq", "mean_square"}
# the running mean of the weights, Prodigy's first weights, and those of schedule-free optimizers
COPIES = {"ema", "p0", "z"}
MOMENTS = GRADIENTS | SQUARES | COPIES
# kept beside what an optimizer keeps itself (training/optimizers.py)
OURS = {"ema", "exp_avg_sq", "mean_square"}
Moments = Callable[[Tensor], dict[str, Tensor]]


def moments_of(optimizer: torch.optim.Optimizer | None) -> Moments:
    """Returns a function that gives the moments of a parameter by name: views in the parameter's
    shape, none before the first step.
    """

    def moments(parameter: Tensor) -> dict[str, Tensor]:
        state = optimizer.state.get(parameter, {}) if optimizer else {}
        return {k: shaped(state[k], parameter) for k in state if follows(k, state, parameter)}

    return moments


def shaped(moment: Tensor, parameter: Tensor) -> Tensor:
    """Returns a moment in the parameter's shape, which optimizers may keep flat."""
    return moment if moment.shape == parameter.shape else moment.view(parameter.shape)


def follows(name: str, state: dict, parameter: Tensor) -> bool:
    """Returns whether an entry of the optimizer's state is a moment with a value for every value of
    the parameter (Prodigy keeps a single zero where all are zero).
    """
    value = state[name]
    plain = type(value) is Tensor and value.is_floating_point()
    return name in MOMENTS and plain and value.numel() == parameter.numel()


def lasting(state: dict, parameter: Tensor) -> dict:
    """Returns what stays of an optimizer's state when positions turn or change in number: all of it
    where all of it follows, else what is ours.
    """
    if all_follow(state, parameter):
        return state
    return {k: v for k, v in state.items() if k in OURS and follows(k, state, parameter)}


def all_follow(state: dict, parameter: Tensor) -> bool:
    """Returns whether all that an optimizer keeps of a parameter follows ranks that move; single
    numbers need not.
    """
    return not any(
        isinstance(v, (list, dict))
        or (torch.is_tensor(v) and v.numel() > 1 and not follows(k, state, parameter))
        for k, v in state.items()
    )


def turned(name: str, of_gradients: Tensor, of_values: Tensor, like: Tensor) -> Tensor:
    """Returns the matrix, or the factors, by which a moment turns.

    of_gradients, of_values: those by which gradients and the parameter turn. like: a tensor of the
    wanted dtype.
    """
    if name in COPIES:
        return of_values.to(like.dtype)
    return (of_gradients.square() if name in SQUARES else of_gradients).to(like.dtype)


def exchanged(
    parameter: nn.Parameter, size: int, dim: int, optimizer: torch.optim.Optimizer | None
) -> nn.Parameter:
    """Returns a new parameter of another size in place of `parameter`, in the optimizer too. It has
    to be new, since autograd keeps the size of the old one.
    """
    fresh = nn.Parameter(resized(parameter.detach(), size, dim))
    if optimizer is not None:
        for group in optimizer.param_groups:
            group["params"] = [fresh if p is parameter else p for p in group["params"]]
        state = lasting(optimizer.state.pop(parameter, {}), parameter)
        for name in [k for k in state if follows(k, state, parameter)]:
            moment = resized(state[name].view(parameter.shape), size, dim)
            state[name] = moment.view(-1) if state[name].ndim == 1 else moment
        optimizer.state[fresh] = state
    return fresh


def resized(tensor: Tensor, size: int, dim: int) -> Tensor:
    """Returns a copy with `size` entries along a dimension, the added ones zero."""
    kept = min(size, tensor.shape[dim])
    shape = list(tensor.shape)
    shape[dim] = size
    fresh = tensor.new_zeros(shape)
    fresh.narrow(dim, 0, kept).copy_(tensor.narrow(dim, 0, kept))
    return fresh


def together_to(tensors: list[Tensor], device: torch.device) -> list[Tensor]:
    """Returns the tensors on the device, moved with one copy for all of them."""
    if not tensors or tensors[0].device == device:
        return tensors
    flat, shapes = pack(tensors, "*")
    return unpack(flat.to(device), shapes, "*")
