"""Reads a model's weights as its layers stand for them. In the model's state, quantised ones are
packed, or stored without their scale.
"""

from __future__ import annotations

import comfy.ops
import comfy.utils
import torch
from torch import Tensor, nn

QUANTISED = getattr(comfy.ops, "QuantizedTensor", ())  # older hosts have none
SUFFIX = ".weight"


def shapes_in(model: nn.Module) -> dict[str, tuple[int, ...]]:
    """Returns key of the state -> shape of the weight that it stands for."""
    modules = dict(model.named_modules())
    return {
        key: shape_of(modules.get(key.removesuffix(SUFFIX)), tensor)
        for key, tensor in model.state_dict().items()
    }


def shape_of(module: nn.Module | None, stored: Tensor) -> tuple[int, ...]:
    """Returns the shape of a linear layer's weight, which the layer itself knows where its values
    are packed; else that of the stored tensor.
    """
    sides = getattr(module, "out_features", None), getattr(module, "in_features", None)
    if is_packed(stored) and all(isinstance(side, int) for side in sides):
        return sides
    return tuple(stored.shape)


def is_packed(stored: Tensor) -> bool:
    """Returns whether values may be stored in another shape: those of less than 16 bits."""
    return not stored.is_floating_point() or stored.dtype.itemsize == 1


def stored_in(patcher, key: str) -> Tensor:
    """Returns the weight under this key as it is stored, without patches that it may hold now."""
    if (hooked := patcher.hook_backup.get(key)) is not None:
        return hooked[0]
    kept = patcher.backup.get(key)
    return comfy.utils.get_attr(patcher.model, key) if kept is None else kept.weight


def values_of(patcher, key: str) -> Tensor | None:
    """Returns the weight under this key in fp32, as the layer computes with it before any LoRA;
    None where the values that are stored have another shape than it.
    """
    module = patcher.model.get_submodule(key.rpartition(".")[0])
    weight = stored = stored_in(patcher, key)
    if isinstance(weight, QUANTISED):
        weight = weight.dequantize()
    elif is_packed(weight) and hasattr(module, "cast_bias_weight"):  # of a pack that reads GGUF
        like = torch.empty(0, dtype=torch.float32, device=weight.device)
        weight, _ = module.cast_bias_weight(like)
    shape = weight.shape if isinstance(stored, QUANTISED) else shape_of(module, stored)
    return weight.float() if tuple(weight.shape) == tuple(shape) else None
