"""The model on loan: a cloned ModelPatcher made ready for autograd, and put back exactly as it
came.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import comfy.model_management
import torch
from torch import nn


def plain_alias(tensor: torch.Tensor) -> torch.Tensor:
    """A normal tensor on the storage of an inference tensor, which autograd refuses; nothing is
    copied.
    """
    alias = torch.empty(0, dtype=tensor.dtype, device=tensor.device)
    return alias.set_(
        tensor.untyped_storage(), tensor.storage_offset(), tensor.shape, tensor.stride()
    )


def replace_inference_tensors(module: nn.Module, replaced: list) -> None:
    """Swaps every inference parameter and buffer for a normal one on the same storage; appends
    (table, name, tensor) of each to `replaced`, to be put back.
    """
    for part in module.modules():
        for table in (part._parameters, part._buffers):
            for name, tensor in table.items():
                if (
                    tensor is None
                    or not tensor.is_inference()
                    or type(tensor.data) is not torch.Tensor
                ):
                    continue
                alias = plain_alias(tensor)
                if isinstance(tensor, nn.Parameter):
                    alias = nn.Parameter(alias, requires_grad=False)
                replaced.append((table, name, tensor))
                table[name] = alias


def trainable_clone(model):
    """A clone that shares the weights; of a dynamic patcher, one with weights of its own.

    A dynamic patcher's weights lie in memory that may be taken back between forward and backward,
    so the host is asked for its non-dynamic form, which it loads from the model's file.
    """
    if not model.is_dynamic():
        return model.clone()
    if model.cached_patcher_init is None:
        raise ValueError(
            "This model streams its weights and does not say how to load it again: start ComfyUI "
            "with --disable-dynamic-vram to train it."
        )
    return model.clone(disable_dynamic=True)


@contextmanager
def on_loan(model) -> Iterator:
    """Loads a clone of a ModelPatcher and yields its inner model with gradients possible.

    The executor's inference mode is off inside, and the host's `in_training` is on: its fused rope
    and norms have no gradients. Weights are shared, not copied; afterwards every
    parameter, buffer, requires_grad and train flag is what it was, whatever happened.
    """
    before = comfy.model_management.in_training
    clone = trainable_clone(model)
    comfy.model_management.load_models_gpu([clone], force_full_load=False)
    inner = clone.model
    training = {module: module.training for module in inner.modules()}
    learning = [p for p in inner.parameters() if p.requires_grad]
    with torch.inference_mode(False), torch.enable_grad():
        replaced: list[tuple[dict, str, torch.Tensor]] = []
        try:
            replace_inference_tensors(inner, replaced)
            for parameter in learning:
                parameter.requires_grad_(False)
            inner.eval()
            comfy.model_management.in_training = True
            yield inner
        finally:
            comfy.model_management.in_training = before
            for table, name, tensor in replaced:
                table[name] = tensor
            for parameter in learning:
                parameter.requires_grad_(True)
            for module, flag in training.items():
                module.training = flag
