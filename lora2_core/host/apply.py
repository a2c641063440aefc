"""Applying an adapter through the host's own weight patches, so strengths and offloading behave as
ever.
"""

from __future__ import annotations

import math
from dataclasses import replace

import torch
from comfy.weight_adapter import LoRAAdapter

from ..lora import LoraLayer, RankedLora
from ..names import HOST_PREFIX
from ..saying import log
from .naming import diffusers_paths, text_layer_names, weight_keys


def as_patch(layer: LoraLayer) -> LoRAAdapter:
    """The host's plain LoRA: alpha equals the rank, so its scale is 1."""
    up, down = layer.file_tensors()
    return LoRAAdapter(set(), (up, down, float(layer.rank), None, None, None))


def resolve(lora: RankedLora, model, clip=None) -> dict:
    """Layer name -> the host's weight key, for the layers that model or clip have; checks every
    shape.

    ValueError when no layer matches or a shape differs; a partial match is a warning with counts.
    """
    weights = dict(model.model.state_dict())
    if clip is not None:
        weights |= clip.cond_stage_model.state_dict()
    direct = all(f"{name}.weight" in weights for name in lora.layers)  # they are module paths
    keys = {} if direct else weight_keys(model, clip)
    found = {}
    for name, layer in lora.layers.items():
        key = keys.get(name) or f"{name}.weight"
        if isinstance(key, str) and key not in weights:
            continue  # the host names layers that a small model has not
        if isinstance(key, str):
            shape = tuple(weights[key].shape)
            if (shape[0], math.prod(shape[1:])) != (layer.up.shape[0], layer.down.shape[1]):
                raise ValueError(
                    f"Layer {name} is for a weight of {layer.up.shape[0]} x "
                    f"{layer.down.shape[1]}, but this model's is "
                    f"{' x '.join(map(str, shape))}: the adapter belongs to another base model."
                )
        found[name] = key
    if not found:
        raise ValueError(
            f"None of the adapter's {len(lora.layers)} layers is in this model (first: "
            f"{next(iter(lora.layers))}): "
            "the adapter belongs to another base model."
        )
    if len(found) < len(lora.layers):
        log.warning(
            "LoRA2: %d of the adapter's %d layers are in this model.", len(found), len(lora.layers)
        )
    return found


def adopt(lora: RankedLora, model, clip=None) -> RankedLora:
    """A loaded adapter with its layers named as in this model, whatever names its file has.

    Diffusion layers get their module path, text encoder layers their kohya name, and what matches
    nothing keeps its name; so heatmaps, comparisons and new files read the same for every source.
    """
    found = resolve(lora, model, clip)
    text = {} if clip is None else text_layer_names(clip.cond_stage_model)

    def name_of(name: str) -> str:
        key = found.get(name)
        if isinstance(key, str) and key.startswith(HOST_PREFIX):
            return key.removesuffix(".weight")
        return text.get(key.removesuffix(".weight"), name) if isinstance(key, str) else name

    layers = {name_of(name): layer for name, layer in lora.layers.items()}
    info = dict(lora.info) | {"diffusers": diffusers_paths(model)}
    return replace(
        lora, layers=layers if len(layers) == len(lora.layers) else lora.layers, info=info
    )


def apply_lora(model, clip, lora: RankedLora, strength_model: float, strength_clip: float):
    """(model, clip) clones with the adapter's updates added; the incoming ones stay as they are."""
    found = resolve(lora, model, clip)
    with torch.inference_mode(False):
        patches = {
            key: as_patch(lora.layers[name])
            for name, key in found.items()
            if lora.layers[name].rank
        }
    model = model.clone()
    added = set(model.add_patches(patches, strength_model))
    if clip is not None:
        clip = clip.clone()
        added |= set(clip.add_patches(patches, strength_clip))
    if missing := set(patches) - added:
        log.warning(
            "LoRA2: %d layers were not taken by the host, the first is %s.",
            len(missing),
            min(map(str, missing)),
        )
    return model, clip
