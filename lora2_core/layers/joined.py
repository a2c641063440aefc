"""A frozen layer, alone or with the low-rank path beside it, as one operation of autograd.

The path is added to the layer's output in place, and nothing is kept for the backward pass but the
input and (Lambda A) x. The frozen weight is asked for again there: where it is a cast copy, or lies
in memory that other layers use too, autograd must not keep it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

from ..adapter.kernels import as_kernels, as_matrix, as_point_kernels

ONE = ((1, 1), (0, 0), (1, 1))  # stride, padding and dilation of a kernel of one pixel
Use = Callable[[Tensor, "Tensor | None"], Tensor]


class Frozen:
    """A frozen Linear or Conv2d: what it computes, and its weight for the backward pass. It can
    stand in the place of the module's forward.
    """

    def __init__(self, module: nn.Module):
        self.module = module
        self.fan_out = module.out_channels if hasattr(module, "kernel_size") else None

    def forward(self, *args: Any, **named: Any) -> Tensor:
        """Returns the layer's output; it has no graph and is nobody else's."""
        return type(self.module).forward(self.module, *args, **named)

    def with_weight(self, like: Tensor, use: Use) -> Tensor:
        """Returns use(weight, bias) with them as the layer computes with them on inputs of this
        dtype and device.
        """
        return use(self.module.weight, self.module.bias)

    def __call__(self, *args: Any, **named: Any) -> Tensor:
        """Computes the layer without a path, as autograd does."""
        return type(self.module).forward(self.module, *args, **named)

    def suits(self) -> bool:
        """Returns whether the layer computes now as it is computed here: not with a padding of
        another kind.
        """
        if self.fan_out is None:
            return True
        module = self.module
        return module.padding_mode == "zeros" and not isinstance(module.padding, str)

    def window(self) -> tuple[tuple, tuple, tuple]:
        """Returns a convolution's stride, padding and dilation."""
        return self.module.stride, self.module.padding, self.module.dilation

    def back(self, gradient: Tensor, x: Tensor) -> Tensor:
        """Returns the gradient of the layer's input x for that of its output."""
        if self.fan_out is not None:
            back = lambda w, _: of_convolution(gradient, x, w, self.window())[0]  # noqa: E731
        else:
            back = lambda w, _: gradient.reshape(-1, w.shape[0]) @ w  # noqa: E731
        return self.with_weight(gradient, back)


def frozen_of(module: nn.Module) -> Frozen | None:
    """Returns a layer of torch's own as a Frozen; None for one that computes in another way, or
    that is trained itself.
    """
    own = type(module).forward in (nn.Linear.forward, nn.Conv2d.forward)
    if not own or "forward" in vars(module) or any(p.requires_grad for p in module.parameters()):
        return None
    return Frozen(module)


def of_convolution(
    gradient: Tensor, x: Tensor, kernels: Tensor, window: tuple, *, of_kernels: bool = False
) -> tuple[Tensor | None, Tensor | None]:
    """Returns the gradients of a convolution's input, or of its kernels."""
    wanted = (not of_kernels, of_kernels, False)
    stride, padding, dilation = window
    return torch.ops.aten.convolution_backward(
        gradient, x, kernels, None, stride, padding, dilation, False, (0, 0), 1, wanted
    )[:2]


class Alone(torch.autograd.Function):
    """Computes a frozen layer, and keeps no copy of its weight."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, frozen: Frozen) -> Tensor:
        ctx.frozen = frozen
        # gradients of a convolution need the input's shape only
        ctx.like = x.new_empty(()).expand(x.shape)
        return frozen.forward(x.detach())

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple:
        return ctx.frozen.back(gradient, ctx.like).view(ctx.like.shape), None


class Joined(torch.autograd.Function):
    """A frozen layer and its path: W0 x + up (down x), with Lambda in `down` [capacity, fan_in] and
    `up` [out, capacity], both of the dtype that the path computes in.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, down: Tensor, up: Tensor, frozen: Frozen) -> Tensor:
        given = x.detach()
        output = frozen.forward(given)
        if frozen.fan_out is None:
            hidden = given.reshape(-1, given.shape[-1]).to(down.dtype) @ down.T
            flat = output.view(-1, output.shape[-1]) if output.is_contiguous() else None
            if flat is not None and output.dtype == down.dtype:
                flat.addmm_(hidden, up.T)
            else:
                output += F.linear(hidden, up).view(output.shape)
        else:
            kernels = as_kernels(down, frozen.module.kernel_size)
            hidden = F.conv2d(given.to(down.dtype), kernels, None, *frozen.window())
            output += F.conv2d(hidden, as_point_kernels(up))
        ctx.save_for_backward(x, hidden)
        ctx.frozen, ctx.down, ctx.up = frozen, down, up
        return output

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple:
        back = through_linear if ctx.frozen.fan_out is None else through_convolution
        found = back(ctx, gradient)
        ctx.down = ctx.up = None  # the loss may live on, and with it whatever stands here
        return (*found, None)


def through_linear(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, Tensor, Tensor]:
    """Returns the gradients of x, down and up where the frozen layer is a Linear."""
    (x, hidden), down, up = ctx.saved_tensors, ctx.down, ctx.up
    flat = gradient.reshape(-1, gradient.shape[-1])
    of_path = flat.to(down.dtype)
    of_up = of_path.T @ hidden
    of_hidden = of_path @ up
    of_down = of_hidden.T @ x.reshape(-1, x.shape[-1]).to(down.dtype)
    if not ctx.needs_input_grad[0]:
        return None, of_down, of_up
    of_x = ctx.frozen.back(flat, x)
    if of_x.dtype == down.dtype:
        of_x.addmm_(of_hidden, down)
    else:
        of_x += of_hidden @ down
    return of_x.view(x.shape), of_down, of_up


def through_convolution(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, Tensor, Tensor]:
    """Returns the gradients of x, down and up where the frozen layer is a Conv2d."""
    (x, hidden), down, up = ctx.saved_tensors, ctx.down, ctx.up
    kernels, points = as_kernels(down, ctx.frozen.module.kernel_size), as_point_kernels(up)
    of_path, given, window = gradient.to(down.dtype), x.to(down.dtype), ctx.frozen.window()
    _, of_points = of_convolution(of_path, hidden, points, ONE, of_kernels=True)
    of_hidden, _ = of_convolution(of_path, hidden, points, ONE)
    _, of_kernels = of_convolution(of_hidden, given, kernels, window, of_kernels=True)
    of_weights = as_matrix(of_kernels), as_matrix(of_points)
    if not ctx.needs_input_grad[0]:
        return None, *of_weights
    of_x = ctx.frozen.back(gradient, x)
    of_x += of_convolution(of_hidden, given, kernels, window)[0]
    return of_x, *of_weights
