"""Applies an adapter through the host's own weight patches, so that strengths and offloading work
as for any LoRA.
"""

from __future__ import annotations

import math
from bisect import bisect_left
from collections.abc import Collection, Mapping
from dataclasses import replace

import comfy.lora
import torch
from comfy.weight_adapter import LoRAAdapter
from torch import Tensor

from ..adapter.dense import Dense
from ..adapter.lora import LoraLayer, RankedLora
from ..adapter.model_order import of_text_encoder
from ..adapter.names import HOST_PREFIX
from ..adapter.other_kinds import BESIDE, OtherChange, size_of
from ..saying import log
from .naming import diffusers_paths, model_names, text_layer_names, weight_keys, weight_of
from .weights import shapes_in, values_of

# shown in nodes; locales/*/main.json has it in other languages
DOUBLES_NOTE = (
    "{0} of its layers change a weight that another one changes too, the first is {1}: they are "
    "left out, as ComfyUI does."
)


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
    with their number is logged. A change of another kind that is for another shape counts as one
    that is not there, as the host's own loader takes it.
    """
    weights = shapes_in(model.model)
    if clip is not None:
        weights |= shapes_in(clip.cond_stage_model)
    names = all_names(lora)
    are_paths = all(f"{name}.weight" in weights for name in names)
    keys = {} if are_paths else weight_keys(model, clip)
    found = {name: keys.get(name) or f"{name}.weight" for name in names}
    # the host also has names for layers that a small model lacks
    targets = {name: key for name, key in found.items() if weight_of(key) in weights}
    for name in list(targets):
        size = size_at(targets[name], weights)
        if name in lora.layers:
            check_size(lora, name, size)
        elif not fits(lora.others[name], size, weights[weight_of(targets[name])]):
            del targets[name]
    if not targets:
        raise ValueError(f"{file_of(lora)}{nowhere(lora, names, clip)}")
    if len(targets) < len(names):
        log.warning(
            "LoRA2: %s%d of the adapter's %d layers are in this model.",
            file_of(lora), len(targets), len(names),
        )  # fmt: skip
    return in_host_order(targets, keys)


def all_names(lora: RankedLora) -> list[str]:
    """Returns the names of all layers that an adapter changes."""
    return list(dict.fromkeys([*lora.layers, *lora.others]))


def nowhere(lora: RankedLora, names: list[str], clip: object) -> str:
    """Returns the sentence for an adapter of which no layer is there."""
    if clip is None and all(map(of_text_encoder, names)):
        return (
            f"All of the adapter's {len(names)} layers are for the text encoder: connect clip to "
            "use them."
        )
    return (
        f"None of the adapter's {len(names)} layers is in this model (first: {names[0]}): the "
        "adapter belongs to another base model."
    )


def size_at(key: str | tuple, weights: Mapping[str, tuple[int, ...]]) -> tuple[int, int]:
    """Returns rows and columns of a weight, or of the slice of it that a key of the host means.

    weights: the model's shapes by key.
    """
    shape = list(weights[weight_of(key)]) or [1]
    if not isinstance(key, str) and key[1] is not None:
        dimension, start, length = key[1]
        shape[dimension] = max(0, min(length, shape[dimension] - start))
    return shape[0], math.prod(shape[1:])


def check_size(lora: RankedLora, name: str, size: tuple[int, int]) -> None:
    """Raises ValueError unless a pair is for a weight of this size."""
    layer = lora.layers[name]
    if size != (rows := layer.up.shape[0], columns := layer.down.shape[1]):
        raise ValueError(
            f"{file_of(lora)}Layer {name} is for a weight of {rows} x {columns}, but this model's "
            f"is {size[0]} x {size[1]}: the adapter belongs to another base model."
        )


def fits(change: OtherChange, size: tuple[int, int], whole: tuple[int, ...]) -> bool:
    """Returns whether a change of another kind is for a weight of this size, or for a slice of this
    size of a weight of the whole shape.
    """
    shapes = change.shapes
    if (grown := change.tensors.get(".reshape_weight")) is not None:
        shape = grown.tolist()
        return len(shape) == len(whole) and all(map(int.__ge__, shape, whole))
    exact = [shapes[e] for e in (".diff", ".set_weight", ".w_norm") if e in shapes]
    if any(shape != whole for shape in exact):
        return False
    if shapes.get(".diff_b", (size[0],)) != (size[0],):
        return False
    if ".oft_blocks" in shapes:
        *_, count, side, _ = shapes[".oft_blocks"]
        return count * side == size[0]
    return size_of(shapes) in (None, size)


def in_host_order(targets: dict, keys: Mapping) -> dict:
    """Returns the targets so that of two layers for one weight the last one is the one that the
    host takes.
    """
    if len(set(targets.values())) == len(targets):
        return targets
    order = {name: number for number, name in enumerate(keys)}
    return dict(sorted(targets.items(), key=lambda pair: order.get(pair[0], -1)))


def adopt(lora: RankedLora, model, clip=None) -> RankedLora:
    """Returns a loaded adapter with its layers named as in this model.

    Layers of the denoiser get their module path, and those of text encoders their kohya name. A
    layer that the model doesn't have keeps its name. Heatmaps, comparisons and new files are then
    the same for files of every trainer.
    """
    targets = resolve(lora, model, clip)
    doubles = doubled(lora, targets)
    text = {} if clip is None else text_layer_names(clip.cond_stage_model)

    def name_of(name: str) -> str:
        key = targets.get(name)
        if isinstance(key, str) and key.startswith(HOST_PREFIX):
            return key.removesuffix(".weight")
        return text.get(key.removesuffix(".weight"), name) if isinstance(key, str) else name

    new = {name: name_of(name) for name in all_names(lora) if name not in doubles}
    layers = {new[name]: layer for name, layer in lora.layers.items() if name in new}
    others = {new[name]: change for name, change in lora.others.items() if name in new}
    file = lora.origin.file
    notes = [*file.notes, [DOUBLES_NOTE, len(doubles), doubles[0]]] if doubles else file.notes
    keys = {new[n]: key for n, key in file.keys.items() if n in new}
    file = replace(file, keys=keys, notes=notes)
    base = replace(
        lora.origin.base, diffusers=diffusers_paths(model), names=model_names(model, clip)
    )
    origin = replace(lora.origin, base=base, file=file)
    return replace(lora, layers=layers, others=others, origin=origin)


def doubled(lora: RankedLora, targets: Mapping) -> list[str]:
    """Returns the layers whose weight a later one changes too: the host takes the last one alone.

    targets: what `resolve` returned.
    """
    last: dict = {}
    doubles = []
    for name, key in targets.items():
        change = lora.others.get(name)
        if name in lora.layers or (change and not change.tensors.keys() <= BESIDE):
            if key in last:
                doubles.append(last[key])
            last[key] = name
    return doubles


def cut_for(lora: RankedLora, keep: float, targets: Mapping) -> RankedLora:
    """Returns the adapter cut to the share `keep` of its parameters; ValueError where no rank is
    left in the model.

    targets: what `resolve` returned for the adapter.
    """

    def left(cut: RankedLora) -> bool:
        pairs = (cut.layers[name].rank for name in targets if name in cut.layers)
        return any(name in cut.others for name in targets) or any(pairs)

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


def patches_of(lora: RankedLora, targets: Mapping) -> dict:
    """Returns the host's key of a weight -> the host's patch, for all that an adapter changes. The
    host itself makes those of other kinds than pairs.
    """
    patches: dict = {}
    for name, key in targets.items():
        if name in lora.others:
            tensors = {name + end: t for end, t in lora.others[name].tensors.items()}
            patches |= comfy.lora.load_lora(tensors, {name: key}, log_missing=False)
        if name in lora.layers and lora.layers[name].rank:
            patches[key] = as_patch(lora.layers[name])
    return patches


def updates(lora: RankedLora, model) -> Dense:
    """Returns layer -> the dense update that a change of another kind than pairs makes of the
    model's weight, as the host computes it; None where it makes none, or another shape.

    lora: with its layers named as in the model.
    """
    targets = resolve(lora, model)

    def update(name: str) -> Tensor | None:
        change, key = lora.others.get(name), targets.get(name)
        if change is None or key is None or change.kind in ("reshape", "set", "norm", "bias"):
            return None
        tensors = {name + e: t for e, t in change.tensors.items() if e != ".diff_b"}
        patch = comfy.lora.load_lora(tensors, {name: key}, log_missing=False)[key]
        weight = values_of(model, weight_of(key))
        if weight is None or weight.ndim < 2:
            return None
        if not isinstance(key, str) and key[1] is not None:
            weight = weight.narrow(*key[1])
        patches = [(1.0, patch, 1.0, None, None)]
        return comfy.lora.calculate_weight(patches, weight.clone(), name) - weight

    return update


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
        patches = patches_of(lora, targets)
    model = model.clone()
    added = set(model.add_patches(patches, strength_model))
    if clip is not None:
        clip = clip.clone()
        added |= set(clip.add_patches(patches, strength_clip))
    warn_of_missing(set(patches) - added)
    return model, clip


def warn_of_missing(missing: Collection) -> None:
    """Logs that the host has not taken patches of some weights."""
    if missing:
        log.warning(
            "LoRA2: %d layers were not taken by the host, the first is %s.",
            len(missing),
            min(map(str, missing)),
        )
