"""Applies an adapter through the host's own weight patches, so that strengths and offloading work
as for any LoRA.
"""

from __future__ import annotations

import math
from bisect import bisect_left
from collections.abc import Mapping
from dataclasses import replace

import torch
from comfy.weight_adapter import LoRAAdapter

from ..adapter.lora import LoraLayer, RankedLora
from ..adapter.names import HOST_PREFIX
from ..saying import log
from .naming import diffusers_paths, text_layer_names, weight_keys


def as_patch(layer: LoraLayer) -> LoRAAdapter:
    """Returns a layer as the host's plain LoRA; alpha equals the rank, so that the scale is 1."""
    up, down = layer.file_tensors()
    return LoRAAdapter(set(), (up, down, float(layer.rank), None, None, None))


def file_of(lora: RankedLora) -> str:
    """Returns the beginning of a sentence on an adapter, its file's name; "" where it has none."""
    return f"{' '.join(name.split())}: " if (name := lora.origin.file.name) else ""


def resolve(lora: RankedLora, model, clip=None) -> dict:
    """Returns layer -> the host's key of its weight, for the layers that model or clip have.

    ValueError when no layer is there or a shape differs. When only some layers are there, a warning
    with their number is logged.
    """
    weights = dict(model.model.state_dict())
    if clip is not None:
        weights |= clip.cond_stage_model.state_dict()
    are_paths = all(f"{name}.weight" in weights for name in lora.layers)
    keys = {} if are_paths else weight_keys(model, clip)
    targets = {}
    for name, layer in lora.layers.items():
        key = keys.get(name) or f"{name}.weight"
        if isinstance(key, str) and key not in weights:
            continue  # the host also has names for layers that a small model lacks
        if isinstance(key, str):
            shape = tuple(weights[key].shape)
            if (shape[0], math.prod(shape[1:])) != (layer.up.shape[0], layer.down.shape[1]):
                raise ValueError(
                    f"{file_of(lora)}Layer {name} is for a weight of {layer.up.shape[0]} x "
                    f"{layer.down.shape[1]}, but this model's is "
                    f"{' x '.join(map(str, shape))}: the adapter belongs to another base model."
                )
        targets[name] = key
    if not targets:
        raise ValueError(
            f"{file_of(lora)}None of the adapter's {len(lora.layers)} layers is in this model "
            f"(first: {next(iter(lora.layers))}): the adapter belongs to another base model."
        )
    if len(targets) < len(lora.layers):
        log.warning(
            "LoRA2: %s%d of the adapter's %d layers are in this model.",
            file_of(lora), len(targets), len(lora.layers),
        )  # fmt: skip
    return targets


def adopt(lora: RankedLora, model, clip=None) -> RankedLora:
    """Returns a loaded adapter with its layers named as in this model.

    Layers of the denoiser get their module path, and those of text encoders their kohya name. A
    layer that the model doesn't have keeps its name. Heatmaps, comparisons and new files are then
    the same for files of every trainer.
    """
    targets = resolve(lora, model, clip)
    text = {} if clip is None else text_layer_names(clip.cond_stage_model)

    def name_of(name: str) -> str:
        key = targets.get(name)
        if isinstance(key, str) and key.startswith(HOST_PREFIX):
            return key.removesuffix(".weight")
        return text.get(key.removesuffix(".weight"), name) if isinstance(key, str) else name

    layers = {name_of(name): layer for name, layer in lora.layers.items()}
    if len(layers) < len(lora.layers):  # two layers of one name: they keep their own
        layers = lora.layers
    base = replace(lora.origin.base, diffusers=diffusers_paths(model))
    return replace(lora, layers=layers, origin=replace(lora.origin, base=base))


def cut_for(lora: RankedLora, keep: float, targets: Mapping) -> RankedLora:
    """Returns the adapter cut to the share `keep` of its parameters; ValueError where no rank is
    left in the model.

    targets: what `resolve` returned for the adapter.
    """

    def left(cut: RankedLora) -> bool:
        return any(cut.layers[name].rank for name in targets)

    if left(cut := lora.truncated(keep)):
        return cut
    if not left(lora):
        raise ValueError(
            f"{file_of(lora)}The adapter has rank 0 in every layer of this model, so it would "
            "change nothing: train it longer or with a higher learning_rate, or choose another one."
        )
    shares = range(1, 101)  # hundredths, the steps of the slider
    least = shares[bisect_left(shares, True, key=lambda s: left(lora.truncated(s / 100)))]
    raise ValueError(
        f"{file_of(lora)}keep is {keep:g}, which leaves no rank in any layer of this model: raise "
        f"it to {least / 100:g} or more."
    )


def apply_lora(
    model,
    clip,
    lora: RankedLora,
    strength_model: float,
    strength_clip: float,
    targets: Mapping | None = None,
):
    """Returns clones of model and clip with the adapter's updates added; the originals stay as they
    are.

    targets: what `resolve` returned for the adapter, where that is known.
    """
    targets = resolve(lora, model, clip) if targets is None else targets
    with torch.inference_mode(False):
        patches = {
            key: as_patch(lora.layers[name])
            for name, key in targets.items()
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
