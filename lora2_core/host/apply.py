"""Applying an adapter through the host's own weight patches, so strengths and offloading behave as
ever.
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
    """Returns the host's plain LoRA: alpha equals the rank, so its scale is 1."""
    up, down = layer.file_tensors()
    return LoRAAdapter(set(), (up, down, float(layer.rank), None, None, None))


def file_of(lora: RankedLora) -> str:
    """Returns how a sentence about an adapter of a file begins; empty for one that was trained."""
    return f"{' '.join(name.split())}: " if (name := lora.origin.file.name) else ""


def resolve(lora: RankedLora, model, clip=None) -> dict:
    """Returns layer name -> the host's weight key, for the layers that model or clip have; checks
    every shape.

    ValueError when no layer matches or a shape differs, with the file where the adapter is of one;
    a partial match is a warning with counts.
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
                    f"{file_of(lora)}Layer {name} is for a weight of {layer.up.shape[0]} x "
                    f"{layer.down.shape[1]}, but this model's is "
                    f"{' x '.join(map(str, shape))}: the adapter belongs to another base model."
                )
        found[name] = key
    if not found:
        raise ValueError(
            f"{file_of(lora)}None of the adapter's {len(lora.layers)} layers is in this model "
            f"(first: {next(iter(lora.layers))}): the adapter belongs to another base model."
        )
    if len(found) < len(lora.layers):
        log.warning(
            "LoRA2: %s%d of the adapter's %d layers are in this model.",
            file_of(lora), len(found), len(lora.layers),
        )  # fmt: skip
    return found


def adopt(lora: RankedLora, model, clip=None) -> RankedLora:
    """Returns a loaded adapter with its layers named as in this model, whatever names its file has.

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
    if len(layers) < len(lora.layers):  # two layers of one name: they keep their own
        layers = lora.layers
    base = replace(lora.origin.base, diffusers=diffusers_paths(model))
    return replace(lora, layers=layers, origin=replace(lora.origin, base=base))


def cut_for(lora: RankedLora, keep: float, found: Mapping) -> RankedLora:
    """Returns the adapter at the size that `keep` asks for. ValueError where nothing of it is left
    in the layers that were found.
    """

    def left(cut: RankedLora) -> bool:
        return any(cut.layers[name].rank for name in found)

    if left(cut := lora.truncated(keep)):
        return cut
    if not left(lora):
        raise ValueError(
            f"{file_of(lora)}The adapter has rank 0 in every layer of this model, so it would "
            "change nothing: train it longer or with a higher learning_rate, or choose another one."
        )
    shares = range(1, 101)  # of a hundred, the steps of the slider
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
    found: Mapping | None = None,
):
    """Returns (model, clip) clones with the adapter's updates added; the incoming ones stay as they
    are.

    found: what `resolve` says of this adapter, where that is known.
    """
    found = resolve(lora, model, clip) if found is None else found
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
