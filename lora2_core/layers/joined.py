"""A frozen layer, alone or with the low-rank path beside it, as one operation of autograd.

The path is added to the layer's output in place, and nothing is kept for the backward pass but the
input and (Lambda A) x. The frozen weight is asked for again there: where it is a cast copy, or lies
in memory that other layers use too, autograd must not keep it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..adapter.kernels import as_kernels, as_point_kernels
from .operation import Operation, once
from .sharing import plus_product
from .unit import Unit

ONE = ((1, 1), (0, 0), (1, 1))  # stride, padding and dilation of a kernel of one pixel
INPUT, BOTH = (True, False), (True, True)  # gradients of a convolution: of input and kernels
Use = Callable[[Tensor, "Tensor | None"], Tensor]
Own = tuple[Tensor, "Tensor | None"]


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

    def own(self, like: Tensor) -> Own | None:
        """Returns weight and bias where the layer computes with them as they are on inputs of this
        dtype and device, and as torch does; None where it has to be asked.
        """
        return self.module.weight, self.module.bias

    def output(self, x: Tensor, rows: Tensor) -> tuple[Tensor, Tensor | None]:
        """Returns what a Linear computes as a matrix, which is nobody else's, and its weight where
        that is its `own`, so that autograd may keep it. rows: x as a matrix.
        """
        own = self.own(x)
        if own is None:
            output = self.forward(x)
            return output.reshape(-1, output.shape[-1]), None
        weight, bias = own
        return F.linear(rows, weight, bias), weight

    def back_into(self, there: Tensor | None, gradient: Tensor, weight: Tensor | None) -> Tensor:
        """Returns the gradient of a Linear's input as a matrix, added to what is there; weight: the
        one that `output` returned.
        """
        if weight is None:
            return self.back(gradient, there=there)
        if there is None:
            return torch.mm(gradient, weight)
        return plus_product(there, gradient, weight)

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
            back = lambda w, _: of_convolution(  # noqa: E731
                gradient, x, w, self.window(), wanted=INPUT
            )[0]
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
    gradient: Tensor, x: Tensor, kernels: Tensor, window: tuple, *, wanted: tuple[bool, bool]
) -> Sequence[Any]:
    """Returns the gradients of a convolution's input and of its kernels, None for one that is not
    wanted.
    """
    stride, padding, dilation = window
    return torch.ops.aten.convolution_backward(
        gradient, x, kernels, None, stride, padding, dilation, False, (0, 0), 1, (*wanted, False)
    )[:2]


class Alone(Operation):
    """Computes a frozen layer, and keeps no copy of its weight."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, frozen: Frozen) -> Tensor:
        ctx.frozen = frozen
        # gradients of a convolution need the input's shape only
        ctx.like = x.new_empty(()).expand(x.shape)
        return frozen.forward(x.detach()).data  # see JoinedLinear

    @staticmethod
    @once
    def backward(ctx: Any, gradient: Tensor) -> tuple:
        if ctx.frozen.fan_out is None:
            gradient = gradient.reshape(-1, gradient.shape[-1])
        return ctx.frozen.back(gradient, ctx.like).view(ctx.like.shape), None


class Pair:
    """What a layer's path computes with in a pass: `down`, lora_down with Lambda, [capacity,
    fan_in], `up`, which is lora_up, [out, capacity], and `back`, the transpose of that.

    unit, index: the unit that they are parts of, and the number of the layer in it. origin: a
    scalar that stands for them in the graph. Operations take it and give it no gradient: they add
    those of lora_down and lora_up to the unit, and autograd knows when all have done so.
    """

    __slots__ = ("back", "down", "index", "origin", "unit", "up")

    def __init__(self, unit: Unit, index: int, origin: Tensor):
        self.unit, self.index, self.origin = unit, index, origin
        self.down, self.up, self.back = unit.downs[index], unit.ups[index], unit.backs[index]


class Lent(Operation):
    """Gives lora_down and lora_up of a pair to operations of torch."""

    @staticmethod
    def forward(ctx: Any, _origin: Tensor, pair: Pair) -> tuple[Tensor, Tensor]:
        ctx.unit, ctx.index = pair.unit, pair.index
        return pair.down.view_as(pair.down), pair.up.view_as(pair.up)

    @staticmethod
    @once
    def backward(ctx: Any, of_down: Tensor, of_up: Tensor) -> tuple:
        ctx.unit.add(ctx.index, of_down, of_up)
        return None, None


def plus_path(output: Tensor, hidden: Tensor, back: Tensor) -> Tensor:
    """Adds up (down x) to the output of a Linear, a matrix, and returns it; hidden: down x, back:
    the transpose of up.
    """
    if output.dtype == back.dtype:
        return output.addmm_(hidden, back)
    output += hidden @ back
    return output


class JoinedLinear(Operation):
    """A frozen Linear and its path: W0 x + up (down x)."""

    @staticmethod
    def compute(
        x: Tensor, pair: Pair, frozen: Frozen, hidden: Tensor | None = None
    ) -> tuple[Tensor, Tensor, Tensor | None]:
        """Returns the output, down x as a matrix, which may be given, and the frozen layer's own
        weight, without a graph.
        """
        shape, up = x.shape, pair.up
        rows = x.reshape(-1, shape[-1])
        output, weight = frozen.output(x, rows)
        if hidden is None:
            hidden = F.linear(rows if rows.dtype == up.dtype else rows.to(up.dtype), pair.down)
        plus_path(output, hidden, pair.back)
        if len(shape) != 2:
            output = output.view(*shape[:-1], output.shape[-1])  # not -1: there may be no rows
        return output, hidden, weight

    @staticmethod
    def forward(ctx: Any, x: Tensor, _origin: Tensor, pair: Pair, frozen: Frozen) -> Tensor:
        output, hidden, ctx.weight = JoinedLinear.compute(x.detach(), pair, frozen)
        ctx.save_for_backward(x, hidden)
        ctx.frozen, ctx.pair = frozen, pair
        return output.data  # no view, as torch makes one: the model may write into it

    @staticmethod
    @once
    def backward(ctx: Any, gradient: Tensor) -> tuple:
        pair, weight = ctx.pair, ctx.weight
        ctx.pair = ctx.weight = None  # the loss may live on, and with it whatever stands here
        x, hidden = ctx.saved_tensors
        flat, up = gradient.reshape(-1, gradient.shape[-1]), pair.up
        of_path, rows = flat, x.reshape(-1, x.shape[-1])
        if flat.dtype != up.dtype:
            of_path, rows = flat.to(up.dtype), rows.to(up.dtype)
        of_hidden = torch.mm(of_path, up)
        pair.unit.add(pair.index, torch.mm(of_hidden.t(), rows), torch.mm(of_path.t(), hidden))
        if not ctx.needs_input_grad[0]:
            return None, None, None, None
        of_x = plus_product(ctx.frozen.back_into(None, flat, weight), of_hidden, pair.down)
        return of_x.view(x.shape), None, None, None


def pixels_of(x: Tensor) -> Tensor:
    """Returns the values of pictures as matrices [pictures, channels, pixels], without a copy."""
    return x.flatten(2)


def are_matrices(*tensors: Tensor) -> bool:
    """Returns whether these pictures are matrices of one dtype as they lie in memory."""
    dtype = tensors[0].dtype
    return all(t.is_contiguous() and t.dtype == dtype for t in tensors)


class JoinedConvolution(Operation):
    """A frozen Conv2d and its path: the kernels of lora_down, and those of lora_up of one pixel."""

    @staticmethod
    def compute(x: Tensor, pair: Pair, frozen: Frozen) -> tuple[Tensor, Tensor]:
        """Returns the output and down x, without a graph."""
        down = pair.down
        output = frozen.forward(x)
        kernels = as_kernels(down, frozen.module.kernel_size)
        hidden = F.conv2d(x.to(down.dtype), kernels, None, *frozen.window())
        if are_matrices(output, hidden, pair.up):  # a kernel of one pixel is a matrix
            up = pair.up.expand(len(output), -1, -1)
            pixels_of(output).baddbmm_(up, pixels_of(hidden))
        else:
            output += F.conv2d(hidden, as_point_kernels(pair.up))
        return output, hidden

    @staticmethod
    def forward(ctx: Any, x: Tensor, _origin: Tensor, pair: Pair, frozen: Frozen) -> Tensor:
        output, hidden = JoinedConvolution.compute(x.detach(), pair, frozen)
        ctx.save_for_backward(x, hidden)
        ctx.frozen, ctx.pair = frozen, pair
        return output

    @staticmethod
    @once
    def backward(ctx: Any, gradient: Tensor) -> tuple:
        (x, hidden), frozen, pair = ctx.saved_tensors, ctx.frozen, ctx.pair
        ctx.pair = None  # the loss may live on, and with it whatever stands here
        down, up, learns = pair.down, pair.up, ctx.needs_input_grad[0]
        of_path, given = gradient.to(down.dtype), x.to(down.dtype)
        if are_matrices(of_path, hidden, up):
            matrices = pixels_of(of_path)
            of_up = torch.bmm(matrices, pixels_of(hidden).mT)
            of_up = of_up[0] if len(of_up) == 1 else of_up.sum(0)
            back = pair.back.expand(len(matrices), -1, -1)
            of_hidden = torch.bmm(back, matrices).view(hidden.shape)
        else:
            points = as_point_kernels(up)
            of_hidden, of_points = of_convolution(of_path, hidden, points, ONE, wanted=BOTH)
            of_up = of_points.flatten(1)
        kernels = as_kernels(down, frozen.module.kernel_size)
        window, wanted = frozen.window(), (learns, True)
        of_given, of_kernels = of_convolution(of_hidden, given, kernels, window, wanted=wanted)
        pair.unit.add(pair.index, of_kernels.flatten(1), of_up)
        if not learns:
            return None, None, None, None
        of_x = frozen.back(gradient, x)
        of_x += of_given
        return of_x, None, None, None
