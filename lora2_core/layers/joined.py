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
from .sharing import Shared, plus_product, rows_of
from .unit import Unit

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

    def back(
        self, gradient: Tensor, x: Tensor | None = None, there: Tensor | None = None
    ) -> Tensor:
        """Returns the gradient of the layer's input x for that of its output. A Linear needs no x,
        takes and gives matrices, and adds to what is `there`.
        """
        if self.fan_out is not None:
            back = lambda w, _: of_convolution(gradient, x, w, self.window())[0]  # noqa: E731
        elif there is not None:
            back = lambda w, _: plus_product(there, gradient, w)  # noqa: E731
        else:
            back = lambda w, _: gradient @ w  # noqa: E731
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
        return frozen.forward(x.detach()).data  # see JoinedLinear

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple:
        if ctx.frozen.fan_out is None:
            gradient = gradient.reshape(-1, gradient.shape[-1])
        return ctx.frozen.back(gradient, ctx.like).view(ctx.like.shape), None


class Place:
    """Where a layer's path stands in a pass: the `index` of the layer in its unit, and a scalar
    that stands for lora_down and lora_up in the graph. Operations take it and give it no gradient:
    they add those of lora_down and lora_up to the unit, and autograd knows when all have done so.

    down: lora_down with Lambda, [capacity, fan_in]; up: lora_up [out, capacity]. shared: what the
    layer's input gives all layers that have the same one.
    """

    __slots__ = ("down", "index", "origin", "shared", "unit", "up")

    def __init__(self, unit: Unit, index: int, origin: Tensor, shared: Shared | None = None):
        self.unit, self.index, self.origin, self.shared = unit, index, origin, shared
        self.down, self.up = unit.downs[index], unit.ups[index]


class Lent(torch.autograd.Function):
    """Gives lora_down and lora_up of a place to operations of torch."""

    @staticmethod
    def forward(ctx: Any, _origin: Tensor, place: Place) -> tuple[Tensor, Tensor]:
        ctx.unit, ctx.index = place.unit, place.index
        return place.down.view_as(place.down), place.up.view_as(place.up)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, of_down: Tensor, of_up: Tensor) -> tuple:
        ctx.unit.add(ctx.index, of_down, of_up)
        return None, None


class JoinedLinear(torch.autograd.Function):
    """A frozen Linear and its path: W0 x + up (down x)."""

    @staticmethod
    def compute(x: Tensor, place: Place, frozen: Frozen) -> tuple[Tensor, Tensor]:
        """Returns the output and down x, without a graph."""
        up, shared = place.up, place.shared
        output = frozen.forward(x)
        if shared is None:
            hidden = F.linear(rows_of(x, up.dtype), place.down)
        else:
            hidden = shared.hidden[place.index]
        if output.dtype == up.dtype and output.is_contiguous():
            output.view(-1, output.shape[-1]).addmm_(hidden, up.T)
        else:
            output += (hidden @ up.T).view(output.shape)
        return output, hidden

    @staticmethod
    def forward(ctx: Any, x: Tensor, _origin: Tensor, place: Place, frozen: Frozen) -> Tensor:
        output, hidden = JoinedLinear.compute(x.detach(), place, frozen)
        ctx.save_for_backward(*((x,) if place.shared is None else ()), hidden)
        ctx.frozen, ctx.unit, ctx.index = frozen, place.unit, place.index
        ctx.shared, ctx.shape = place.shared, x.shape
        return output.data  # no view, as torch makes one: the model may write into it

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple:
        unit, index = ctx.unit, ctx.index
        flat = gradient.reshape(-1, gradient.shape[-1])
        of_path = flat.to(unit.down.dtype)
        shared, learns = ctx.shared, ctx.needs_input_grad[0]
        ctx.unit = ctx.shared = None  # the loss may live on, and with it whatever stands here
        if shared is not None:
            shared.add(index, of_path, *ctx.saved_tensors)
            if learns:  # which is given to x with that of the other layers
                shared.of_x = ctx.frozen.back(flat, there=shared.of_x)
            return None, None, None, None
        x, hidden = ctx.saved_tensors
        of_hidden = of_path @ unit.ups[index]
        unit.add(index, of_hidden.T @ rows_of(x, of_path.dtype), of_path.T @ hidden)
        if not learns:
            return None, None, None, None
        of_x = plus_product(ctx.frozen.back(flat), of_hidden, unit.downs[index])
        return of_x.view(ctx.shape), None, None, None


class JoinedConvolution(torch.autograd.Function):
    """A frozen Conv2d and its path: the kernels of lora_down, and those of lora_up of one pixel."""

    @staticmethod
    def compute(x: Tensor, place: Place, frozen: Frozen) -> tuple[Tensor, Tensor]:
        """Returns the output and down x, without a graph."""
        down = place.down
        output = frozen.forward(x)
        kernels = as_kernels(down, frozen.module.kernel_size)
        hidden = F.conv2d(x.to(down.dtype), kernels, None, *frozen.window())
        output += F.conv2d(hidden, as_point_kernels(place.up))
        return output, hidden

    @staticmethod
    def forward(ctx: Any, x: Tensor, _origin: Tensor, place: Place, frozen: Frozen) -> Tensor:
        output, hidden = JoinedConvolution.compute(x.detach(), place, frozen)
        ctx.save_for_backward(x, hidden)
        ctx.frozen, ctx.unit, ctx.index = frozen, place.unit, place.index
        return output

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple:
        (x, hidden), frozen, unit, index = ctx.saved_tensors, ctx.frozen, ctx.unit, ctx.index
        down, points = unit.downs[index], as_point_kernels(unit.ups[index])
        kernels, window = as_kernels(down, frozen.module.kernel_size), frozen.window()
        of_path, given = gradient.to(down.dtype), x.to(down.dtype)
        _, of_points = of_convolution(of_path, hidden, points, ONE, of_kernels=True)
        of_hidden, _ = of_convolution(of_path, hidden, points, ONE)
        _, of_kernels = of_convolution(of_hidden, given, kernels, window, of_kernels=True)
        unit.add(index, as_matrix(of_kernels), as_matrix(of_points))
        ctx.unit = None
        of_x = None
        if ctx.needs_input_grad[0]:
            of_x = frozen.back(gradient, x)
            of_x += of_convolution(of_hidden, given, kernels, window)[0]
        return of_x, None, None, None
