"""How the host's layers compute while a model is on loan: nothing that they cast is kept.

The host casts weights when it computes: those that are stored in fewer bits, and those that lie in
RAM. Autograd would keep the copies, which are a second model, or which lie in memory that the next
layer writes into. So each such layer is one operation that casts its weight again in the backward
pass.

Quantised layers of the host also quantise their inputs, or use kernels of their own. Here they
compute with the dequantised weight, so that values and gradients belong together; or, straight
through, as they do while the host samples, and only gradients go through the dequantised weight.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from typing import Any

import comfy.model_management
import comfy.ops
import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

from ...layers.joined import Alone, Frozen, Own, Use, frozen_of
from ...layers.layer import is_adaptable
from ..weights import QUANTISED
from .ahead import Ahead

# older hosts have no weights that come on side streams
OFFLOADABLE = "offloadable" in inspect.signature(comfy.ops.cast_bias_weight).parameters
# the host's layers that compute with the cast weight as torch's do
ITS_OWN = comfy.ops.disable_weight_init.Linear, comfy.ops.disable_weight_init.Conv2d
FORWARDS = {kind.forward for kind in ITS_OWN}
CASTING_FORWARDS = {kind.forward_comfy_cast_weights for kind in ITS_OWN}
CAST = "forward_comfy_cast_weights"
# inside, the host's kernels compute: a flow model is computed under a mode (out_of_place.py) that
# puts forms in their place that have gradients, and some of these forms take other arguments
KERNELS = torch._C.DisableTorchFunction
NOTHING = Ahead(torch.device("cpu"))  # where no weight is fetched ahead


def in_ram(module: nn.Module, x: Tensor) -> bool:
    """Returns whether the module's weight lies elsewhere than x, or may go away at any time."""
    weight = module._parameters.get("weight")
    return weight is not None and (weight.device != x.device or "_v" in module.__dict__)


class HostFrozen(Frozen):
    """Computes a Linear or Conv2d of the host. ahead: fetches its weights where they lie in RAM."""

    ahead = NOTHING

    def __init__(self, module: nn.Module):
        super().__init__(module)
        kind = type(module)
        unpacked = hasattr(module, "cast_bias_weight")  # another pack's: it knows its own weights
        standard = kind.forward in FORWARDS and getattr(kind, CAST) in CASTING_FORWARDS
        # others quantise their inputs or use kernels of their own, which differ from what the
        # gradients are those of
        self.own_forward, self.standard = not standard and not unpacked, standard and not unpacked
        self.straight_through = False
        # the host's fp8 kernel clamps its input in place
        self.writes = isinstance(module, comfy.ops.fp8_ops.Linear)

    @property
    def plainly(self) -> bool:
        """Returns whether the layer computes with its plain weight what its host forward does in
        another way.
        """
        return self.own_forward and not self.straight_through

    @property
    def quantised(self) -> bool:
        """Returns whether the weight is stored in 8 bits or fewer."""
        weight = self.module._parameters.get("weight")
        small = weight is not None and weight.dtype.itemsize == 1
        return small or isinstance(weight, QUANTISED)

    def casts(self, x: Tensor) -> bool:
        """Returns whether the layer computes on x with a copy of its weight."""
        module = self.module
        parameters = module._parameters  # asked for in every call: a module's own way is slow
        weight, bias = parameters.get("weight"), parameters.get("bias")
        return (
            weight is None
            or weight.dtype != x.dtype
            or (bias is not None and bias.dtype != x.dtype)
            or in_ram(module, x)
            or bool(module.weight_function)
            or bool(module.bias_function)
            or isinstance(weight, QUANTISED)
        )

    def own(self, like: Tensor) -> Own | None:
        if not self.standard or self.casts(like):
            return None
        parameters = self.module._parameters
        return parameters["weight"], parameters["bias"]

    def with_weight(self, like: Tensor, use: Use) -> Tensor:
        module = self.module
        if (scale := getattr(module, "pre_quant_scale", None)) is not None:  # of the inputs
            scale = comfy.model_management.cast_to_device(scale, like.device, like.dtype)
            use = partial(with_scaled_weight, use, scale)
        if not self.casts(like):
            parameters = module._parameters
            return use(parameters["weight"], parameters["bias"])
        with self.ahead.use(module, like):
            return self.with_cast_weight(like, use)

    def with_cast_weight(self, like: Tensor, use: Use) -> Tensor:
        """Returns use(weight, bias) with what the host casts them to."""
        module = self.module
        if hasattr(module, "cast_bias_weight"):
            return use(*module.cast_bias_weight(like))
        if not OFFLOADABLE:
            return use(*comfy.ops.cast_bias_weight(module, like))
        with KERNELS():
            weight, bias, stream = comfy.ops.cast_bias_weight(
                module, like, offloadable=True, compute_dtype=like.dtype
            )
        try:
            with KERNELS():
                plain = weight.dequantize() if isinstance(weight, QUANTISED) else weight
            return use(plain.to(like.dtype), bias)
        finally:
            comfy.ops.uncast_bias_weight(module, weight, bias, stream)

    def forward(self, *args: Any, **named: Any) -> Tensor:
        if not self.plainly or len(args) != 1 or named or not self.suits():
            if self.writes:
                args = tuple(x.clone() for x in args)
            kernels = KERNELS() if self.straight_through else None
            if kernels is None and self.ahead.buffer is None:  # as nearly always
                return super().forward(*args, **named)
            with self.ahead.use(self.module, *args, *named.values()), kernels or nullcontext():
                return super().forward(*args, **named)
        (x,) = args
        comfy.ops.run_every_op()
        if self.fan_out is None:
            return self.with_weight(x, lambda weight, bias: F.linear(x, weight, bias))
        return self.with_weight(x, lambda weight, bias: self.module._conv_forward(x, weight, bias))

    def __call__(self, *args: Any, **named: Any) -> Tensor:
        if len(args) == 1 and not named and self.suits():
            (x,) = args
            graph = torch.is_grad_enabled() and x.requires_grad
            if graph and (self.own_forward or self.casts(x)):
                return Alone.apply(x, self)
        return self.forward(*args, **named)


def with_scaled_weight(use: Use, scale: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """Returns use(weight, bias) with the weight that belongs to inputs without their scale."""
    return use(weight * scale, bias)


Using = Callable[[Tensor], AbstractContextManager]


class Again(torch.autograd.Function):
    """Computes a small layer, such as a norm, again in the backward pass; both times in the context
    of its use.
    """

    @staticmethod
    def forward(ctx, x: Tensor, compute: Callable[[Tensor], Tensor], using: Using) -> Tensor:
        ctx.save_for_backward(x)
        ctx.compute, ctx.using = compute, using
        with using(x):
            return compute(x.detach())

    @staticmethod
    @once_differentiable
    def backward(ctx, gradient: Tensor) -> tuple:
        (x,) = ctx.saved_tensors
        with ctx.using(x), torch.enable_grad():
            leaf = x.detach().requires_grad_()
            return *torch.autograd.grad(ctx.compute(leaf), leaf, gradient), None, None


def with_first(compute: Callable, module: nn.Module, rest: list, named: dict, x: Tensor) -> Tensor:
    """Computes a module on x and the rest of what it is given."""
    return compute(module, x, *rest, **named)


class Recomputed:
    """Computes another layer of the host, such as a norm, twice while its weight lies in RAM.
    ahead: fetches it.
    """

    ahead = NOTHING

    def __init__(self, module: nn.Module):
        self.module = module

    def __call__(self, *args: Any, **named: Any) -> Tensor:
        module, compute = self.module, type(self.module).forward
        if args and torch.is_grad_enabled() and args[0].requires_grad and in_ram(module, args[0]):
            x, *rest = args  # kept by Again are only the others
            again = partial(with_first, compute, module, rest, named)
            return Again.apply(x, again, partial(self.ahead.use, module))
        if self.ahead.buffer is None:
            return compute(module, *args, **named)
        with self.ahead.use(module, *args, *named.values()):
            return compute(module, *args, **named)


def layer_of(module: nn.Module) -> HostFrozen | Recomputed | None:
    """Returns how a layer of the host computes on loan; None for what is not the host's, and for
    what has a forward of its own, such as another adapter's.
    """
    if not hasattr(module, "comfy_cast_weights") or "forward" in vars(module):
        return None
    kind = type(module)
    if not hasattr(kind, CAST):
        return None
    from_host = getattr(kind, CAST).__module__ == kind.forward.__module__ == comfy.ops.__name__
    unpacked = hasattr(module, "cast_bias_weight") and kind.forward in FORWARDS
    if is_adaptable(module) and (from_host or unpacked):
        # older hosts: weights times a scale that casting leaves out
        return None if getattr(module, "scale_weight", None) is not None else HostFrozen(module)
    return Recomputed(module) if from_host else None


def has_quantised_layers(modules: Iterable[nn.Module]) -> bool:
    """Returns whether the host computes any of these modules with a quantised weight of its own."""
    return any(
        isinstance(layer := layer_of(module), HostFrozen) and layer.own_forward and layer.quantised
        for module in modules
    )


class FrozenLayers:
    """Lets all of the host's layers among these modules compute so, until `remove`. ahead: fetches
    their weights.
    """

    def __init__(self, modules: Iterable[nn.Module], ahead: Ahead = NOTHING):
        self.layers: dict[nn.Module, HostFrozen | Recomputed] = {}
        for module in modules:
            if module not in self.layers and (layer := layer_of(module)) is not None:
                self.layers[module] = layer
                module.forward, layer.ahead = layer, ahead

    def of(self, module: nn.Module) -> Frozen | None:
        """Returns a layer as one that can be joined with its path, None where it can't."""
        layer = self.layers.get(module)
        return layer if isinstance(layer, HostFrozen) else frozen_of(module)

    def straight_through(self) -> None:
        """Lets quantised layers compute as the host does while it samples; gradients go through the
        dequantised weight.
        """
        for layer in self.layers.values():
            if isinstance(layer, HostFrozen):
                layer.straight_through = layer.own_forward

    def remove(self) -> None:
        """Gives every layer its own forward back."""
        for module in self.layers:
            del module.forward
        self.layers.clear()
