"""How layers compute where a block of the host's model is captured by torch.compile: each Linear
and Conv2d with its path, in operations of torch alone.
"""

from __future__ import annotations

from functools import cache
from types import FunctionType
from typing import Any

from torch import Tensor, nn
from torch.nn import functional as F

from ...layers.layer import with_path
from .attention import OVERRIDE

PATH = "lora2_path"  # under this name a layer has lora_down with Lambda, and lora_up, in a call
# in transformer_options: where a block stands, which only patches and overrides ask
PLACE = {
    "block", "block_index", "block_type", "transformer_index", "total_blocks", "current_index",
    "activations_shape", OVERRIDE,
}  # fmt: skip


def with_own_path(layer: nn.Module, x: Tensor, y: Tensor) -> Tensor:
    """Returns a layer's output with its path, where it has one."""
    path = layer.__dict__.get(PATH)
    return y if path is None else with_path(layer, x, y, *path)


def cast_to(weight: Tensor | None, x: Tensor) -> Tensor | None:
    """Returns a weight in the dtype of an input."""
    return None if weight is None else weight.to(x.dtype)


def linear(self: nn.Module, x: Tensor) -> Tensor:
    """Computes a Linear and its path."""
    return with_own_path(self, x, F.linear(x, cast_to(self.weight, x), cast_to(self.bias, x)))


def convolution(self: nn.Module, x: Tensor) -> Tensor:
    """Computes a Conv2d and its path."""
    weight, bias = cast_to(self.weight, x), cast_to(self.bias, x)
    return with_own_path(self, x, nn.Conv2d._conv_forward(self, x, weight, bias))


@cache
def traced(kind: type[nn.Module]) -> type[nn.Module]:
    """Returns a class of layers that compute what this one's do, in a way that can be captured."""
    forward = convolution if issubclass(kind, nn.Conv2d) else linear
    return type(f"Traced{kind.__name__}", (kind,), {"forward": forward})


def own(value: Any) -> Any:
    """Returns a tensor with gradients that a block may write into; the compiler leaves the copy out
    where nothing does.
    """
    return value.clone() if isinstance(value, Tensor) and value.requires_grad else value


def compute(block: nn.Module, args: tuple, named: dict) -> Any:
    """Computes a block; copies of this function are what is compiled."""
    given = [own(value) for value in args]
    other = {name: own(value) for name, value in named.items()}
    return type(block).forward(block, *given, **other)


def own_copy(name: str) -> FunctionType:
    """Returns a copy of `compute`: torch keeps what it compiles by the code of a function, and
    forgets it with that.
    """
    return FunctionType(compute.__code__.replace(co_name=name), compute.__globals__, name)


def without_place(value: Any) -> Any:
    """Returns transformer_options that don't say where a block stands; other values as they are."""
    if not isinstance(value, dict) or "sigmas" not in value:
        return value
    return {name: each for name, each in value.items() if name not in PLACE}
