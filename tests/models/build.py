"""Builds a small random model of a class of the host's `supported_models`, with data for it."""

from __future__ import annotations

from functools import cache

import comfy.ldm.audio.embedders
import comfy.model_base
import comfy.model_management
import comfy.supported_models
import torch
from comfy.model_base import BaseModel
from comfy.model_patcher import ModelPatcher

from .shapes import SHAPES
from .shrink import defaults_of, shrunk


class _Known(Exception):
    """Carries the class of a diffusion model out of its configuration's get_model."""


def names() -> list[str]:
    """Returns the names of all classes that the host supports."""
    return [each.__name__ for each in comfy.supported_models.models]


def config_class(name: str) -> type:
    return next(c for c in comfy.supported_models.models if c.__name__ == name)


def weights_of(name: str, width: int) -> dict:
    """Returns what a class reads of a checkpoint when it is built."""
    if name == "Stable_Zero123":
        return {
            "cc_projection.weight": torch.zeros(width, 772),
            "cc_projection.bias": torch.zeros(width),
        }
    if name.startswith("StableAudio"):
        numbers = {"StableAudio3": {"fourier_features_type": "expo"}}.get(name, {})
        part = comfy.ldm.audio.embedders.NumberConditioner(768, **numbers).state_dict()
        sides = "seconds_start", "seconds_total"
        return {
            f"conditioner.conditioners.{s}.{k}": torch.zeros_like(v)
            for s in sides
            for k, v in part.items()
        }
    return {}


@cache
def diffusion_class(name: str) -> type:
    """Returns the class of the diffusion model that a configuration builds."""
    config = config_class(name)
    shape = {"in_channels": 4, "hidden_size": 64, "timestep_features_type": "expo"}

    def known(self, config, model_type=None, device=None, unet_model=comfy.model_base.UNetModel):
        raise _Known(unet_model)

    before, BaseModel.__init__ = BaseModel.__init__, known
    try:
        config(shape | config.unet_config).get_model(weights_of(name, 768), "")
    except _Known as found:
        return found.args[0]
    finally:
        BaseModel.__init__ = before
    raise ValueError(f"{name} builds no model")


def shape_of(name: str) -> dict:
    """Returns the shape of a small model: the class's own facts, its defaults made small, and what
    the table says.
    """
    diffusion, own = diffusion_class(name), config_class(name).unet_config
    table = SHAPES.get(diffusion.__name__, {}), SHAPES.get(name, {})
    known = table[0] | table[1]
    rule = shrunk(defaults_of(diffusion) | own) if diffusion.__name__ not in SHAPES else {}
    return own | rule | known


@torch.inference_mode(False)
def build(name: str, dtype: torch.dtype = torch.float32) -> ModelPatcher:
    """Returns a model of this class with random weights of which activations keep their size."""
    shape = shape_of(name)
    config = config_class(name)(dict(shape))
    config.unet_config.update({k: v for k, v in shape.items() if k in config.unet_config})
    config.set_inference_dtype(dtype, None)
    torch.manual_seed(0)
    with uninitialised_is_nan():
        model = config.get_model(weights_of(name, shape.get("context_dim", 768)), "")
    draw(model)
    device = comfy.model_management.get_torch_device()
    return ModelPatcher(model, load_device=device, offload_device=device)


class uninitialised_is_nan:
    """Makes torch.empty give NaN inside, so that what a model leaves open is seen."""

    def __enter__(self) -> None:
        torch.use_deterministic_algorithms(True, warn_only=True)

    def __exit__(self, *_) -> None:
        torch.use_deterministic_algorithms(False)


def draw(model: torch.nn.Module) -> None:
    """Draws every parameter: matrices that keep the size of what they multiply, norms near one,
    biases near zero. Buffers stay unless nothing has filled them.
    """
    generator = torch.Generator().manual_seed(0)
    for name, tensor in [*model.named_parameters(), *model.named_buffers()]:
        if not tensor.is_floating_point() or not name.startswith("diffusion_model."):
            continue
        if not isinstance(tensor, torch.nn.Parameter) and bool(torch.isfinite(tensor).all()):
            continue
        vector = tensor.ndim < 2
        scale = 0.02 if vector else 0.5 * tensor[0].numel() ** -0.5
        noise = torch.randn(tensor.shape, generator=generator) * scale
        one = vector and name.rpartition(".")[2] in ("weight", "scale", "gamma")
        tensor.data.copy_(noise + one)
