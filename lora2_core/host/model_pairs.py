"""Gives the weights of two models layer by layer, to extract an adapter from: of models in nodes,
with the patches on them, or of files in the host's folders, without loading these.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import comfy.lora
import comfy.model_detection
import comfy.model_management
import folder_paths
import torch
from torch import Tensor

from ..adapter.names import HOST_PREFIX
from ..files.model_file import ModelFile
from ..paths import below, quoted
from .weights import shapes_in, stored_in, values_of

FOLDERS = ("checkpoints", "diffusion_models")
ENDING = ".safetensors"
_DIFFUSERS = re.compile(
    r"(down_blocks|up_blocks|mid_block|conv_in|conv_out|time_embedding|add_embedding)"
)
_OTHERS = ("first_stage_model.", "vae.", "model_ema.", "cond_stage_model.", "conditioner.",
           "text_encoders.")  # fmt: skip
_CLIP_L = re.compile(r"(cond_stage_model|conditioner\.embedders\.0)\.transformer\.(text_model\..+)")
_CLIP_G = re.compile(
    r"conditioner\.embedders\.1\.model\.transformer\.resblocks\.(\d+)\."
    r"(attn\.in_proj_|attn\.out_proj\.|mlp\.c_fc\.|mlp\.c_proj\.)(weight|bias)"
)
_CLIP_G_PARTS = {
    "attn.out_proj.": "self_attn_out_proj", "mlp.c_fc.": "mlp_fc1", "mlp.c_proj.": "mlp_fc2",
}  # fmt: skip
SAME_LEAST = 0.5  # of the layers of the smaller model, that both must have


@dataclass(frozen=True)
class Part:
    """Says where a layer's weight is: a key of a model, and the third of its rows that is meant."""

    key: str
    third: int | None = None


@dataclass(frozen=True)
class Weights:
    """Holds the weights of one model. shapes: by the layer's name; that of a bias ends in `.bias`.
    read: gives a weight. title: what a user knows the model by.
    """

    title: str
    shapes: Mapping[str, tuple[int, ...]]
    read: Callable[[str], Tensor]


def of_model(title: str, model) -> Weights:
    """Returns the weights of a MODEL's denoiser, with its patches added as the host adds them."""
    of_keys = {k: s for k, s in shapes_in(model.model).items() if k.startswith(HOST_PREFIX)}
    keys = {name: key for key in of_keys if (name := named(key)) is not None}

    def read(name: str) -> Tensor:
        key = keys[name]
        weight, patches = stored_in(model, key), model.patches.get(key, [])
        plain = type(weight) in (Tensor, torch.nn.Parameter) and weight.is_floating_point()
        if plain and not patches:
            return weight.detach().clone()
        if (values := values_of(model, key)) is None:
            raise ValueError(f"{title}: the weight of layer {name} is packed in an unknown way.")
        device = comfy.model_management.get_torch_device()
        wide = comfy.model_management.cast_to_device(values, device, torch.float32, copy=True)
        return comfy.lora.calculate_weight(patches, wide, key)

    shapes = {name: of_keys[key] for name, key in keys.items()}
    return Weights(title, shapes, read)


def named(key: str) -> str | None:
    """Returns the name of the layer, or of its bias, that a key of a weight means."""
    base, _, ending = key.rpartition(".")
    return {"weight": base, "bias": key}.get(ending)


def model_files() -> list[str]:
    """Returns the models in the host's folders, each with the folder's name before it."""
    return [
        f"{folder}/{name}"
        for folder in FOLDERS
        for name in folder_paths.get_filename_list(folder)
        if name.lower().endswith(ENDING)
    ]


def model_path(name: object) -> Path:
    """Returns the path of a file that `model_files` lists; ValueError for any other name."""
    folder, _, rest = name.partition("/") if isinstance(name, str) else ("", "", "")
    roots = folder_paths.get_folder_paths(folder) if folder in FOLDERS else []
    paths = [below(root, rest) for root in roots]
    found = next((path for path in paths if path is not None and os.path.isfile(path)), None)
    if found is None or not rest.lower().endswith(ENDING):
        raise ValueError(
            f"There is no file {quoted(name)} in the folders {' and '.join(FOLDERS)}: choose one "
            f"from the list (R renews it); it must be a {ENDING} file."
        )
    return found


def of_file(name: str, opened: ExitStack) -> Weights:
    """Returns the weights of a file; it is closed with `opened`."""
    file = opened.enter_context(ModelFile(model_path(name)))
    parts = parts_in(file.header.entries)
    if not parts:
        raise ValueError(f"{file.name} has no weights of a diffusion model: choose another file.")
    device = comfy.model_management.get_torch_device()

    def read(layer: str) -> Tensor:
        part = parts[layer]
        weight = file.weight(part.key)
        if part.third is not None:
            weight = weight.chunk(3)[part.third]
        return weight.to(device)

    def shape(part: Part) -> tuple[int, ...]:
        rows, *sides = file.shape(part.key) or (1,)
        return (rows if part.third is None else rows // 3, *sides)

    return Weights(file.name, {n: shape(part) for n, part in parts.items()}, read)


def parts_in(keys: Iterable[str]) -> dict[str, Part]:
    """Returns layer -> where it is in a checkpoint, or in a file of a diffusion model alone."""
    known = dict.fromkeys(keys)
    prefix = comfy.model_detection.unet_prefix_from_state_dict(known)
    if not any(key.startswith(prefix) for key in known):
        prefix = ""
    found: dict[str, Part] = {}
    for key in known:
        if text := text_parts(key):
            found |= text
        elif key.startswith(prefix) and not key.startswith(_OTHERS):
            path = key.removeprefix(prefix).removeprefix(HOST_PREFIX)
            if (name := named(path)) is not None:
                before = "unet." if _DIFFUSERS.match(path) else HOST_PREFIX
                found[before + name] = Part(key)
    return found


def text_parts(key: str) -> dict[str, Part]:
    """Returns the layers of a text encoder that a key of a checkpoint means; {} for another key.
    Embeddings are none, since loaders of LoRAs don't change them.
    """
    if "embedding" in key:
        return {}
    if match := _CLIP_L.fullmatch(key):
        beginning = "lora_te1_" if match[1].startswith("conditioner") else "lora_te_"
        name = named(match[2])
        if name is None:
            return {}
        bias = ".bias" if name.endswith(".bias") else ""
        return {beginning + name.removesuffix(".bias").replace(".", "_") + bias: Part(key)}
    if match := _CLIP_G.fullmatch(key):
        layer = f"lora_te2_text_model_encoder_layers_{match[1]}_"
        bias = ".bias" if match[3] == "bias" else ""
        if match[2] == "attn.in_proj_":
            return {
                f"{layer}self_attn_{letter}_proj{bias}": Part(key, third)
                for third, letter in enumerate("qkv")
            }
        return {f"{layer}{_CLIP_G_PARTS[match[2]]}{bias}": Part(key)}
    if key.startswith("text_encoders.") and (name := named(key)) is not None:
        return {name: Part(key)}
    return {}


def in_common(tuned: Weights, base: Weights) -> dict[str, tuple[int, ...]]:
    """Returns the shapes of the layers that both models have; ValueError in one sentence where they
    are of different architectures.
    """
    both = [name for name in tuned.shapes if name in base.shapes]
    least = SAME_LEAST * min(len(tuned.shapes), len(base.shapes))
    if len(both) <= least:
        raise ValueError(
            f"{tuned.title} and {base.title} are of different architectures: {len(both)} of their "
            f"{len(tuned.shapes)} and {len(base.shapes)} weights have the same names."
        )
    for name in both:
        if tuned.shapes[name] != base.shapes[name]:
            first, second = (" x ".join(map(str, w.shapes[name])) for w in (tuned, base))
            raise ValueError(
                f"{tuned.title} and {base.title} are of different architectures: layer {name} is "
                f"{first} in one and {second} in the other."
            )
    return {name: tuned.shapes[name] for name in both}


def matching(shapes: Mapping[str, tuple[int, ...]], pattern: str) -> dict[str, tuple[int, ...]]:
    """Returns the layers whose name a regular expression is found in; all for an empty one."""
    try:
        found = re.compile(pattern)
    except re.error as error:
        raise ValueError(f"layers is not a regular expression ({error}): {pattern!r}") from error
    chosen = {n: s for n, s in shapes.items() if found.search(n.removesuffix(".bias"))}
    if not chosen:
        raise ValueError(
            f"layers {pattern!r} matches no layer: one is named {next(iter(shapes), 'nothing')}."
        )
    return chosen
