"""Names of layers in files: writes the kohya and the PEFT form, and splits the key of a tensor.

A layer's own name is its dotted module path, with the host's leading `diffusion_model.` where there
is one.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping

KOHYA_PREFIX = "lora_unet_"
HOST_PREFIX = "diffusion_model."
FILE_PREFIXES = (KOHYA_PREFIX, "lora_te", "lora_transformer_", "lycoris_")

# what a name in a diffusers or PEFT file begins with -> the kohya prefix; None where that prefix
# differs by model family, so that the name stays as it is
PARTS = {
    "unet.": KOHYA_PREFIX,
    "text_encoder.": "lora_te1_",
    "text_encoder_2.": "lora_te2_",
    "text_encoder_3.": None,
    "text_encoders.": None,
    "transformer.": None,
    "base_model.model.": None,
}

# tensor suffix -> role, for every spelling that loaders of the ecosystem accept
ROLES = {
    ".lora_up.weight": "up",
    ".lora_mid.weight": "mid",
    ".lora_down.weight": "down",
    "_lora.up.weight": "up",
    "_lora.down.weight": "down",
    ".lora.up.weight": "up",
    ".lora.down.weight": "down",
    ".lora_linear_layer.up.weight": "up",
    ".lora_linear_layer.down.weight": "down",
    ".lora_B.weight": "up",
    ".lora_A.weight": "down",
    ".lora_B": "up",
    ".lora_A": "down",
    ".alpha": "alpha",
}
# PEFT may write the name of the adapter into each key: `x.lora_A.default.weight`
_NAMED_ADAPTER = re.compile(r"(.+)\.lora_([AB])\.[^.]+\.weight", re.DOTALL)

# diffusers' own name of SDXL's label_emb, which its converter of kohya files does not know
ADDED = "add_embedding."
# a CLIP's layer in a kohya file: number of the encoder, number of the layer, block, module
CLIP_LAYER = re.compile(r"lora_te(\d?)_text_model_encoder_layers_(\d+)_(self_attn|mlp)_(\w+)")


def split_key(key: str) -> tuple[str, str] | None:
    """Returns (base name, role) of a tensor's key, or None when it belongs to no low-rank pair."""
    for suffix, role in ROLES.items():
        if key.endswith(suffix):
            return key[: -len(suffix)], role
    if named := _NAMED_ADAPTER.fullmatch(key):
        return named[1], "up" if named[2] == "B" else "down"
    return None


def part_of(layer: str) -> str | None:
    """Returns the key of PARTS that a layer's name begins with; None for other names."""
    return next((part for part in PARTS if layer.startswith(part)), None)


def module_path(layer: str, part: str) -> str:
    """Returns a layer's name without its part, and without the word `processor` that diffusers'
    first LoRA files have in it.
    """
    path = layer.removeprefix(part)
    if ".processor." not in path:
        return path
    path = path.replace(".processor.", ".")
    return f"{path}.0" if path.endswith(".to_out") else path


def kohya_name(layer: str, diffusers: Mapping[str, str] | None = None) -> str:
    """Returns a layer's name in a kohya file: `lora_unet_…`, with underscores for dots. A name
    that already has the form of a file stays.

    diffusers: module path -> diffusers' path of the same module, for UNets.
    """
    if layer.startswith(FILE_PREFIXES):
        return layer
    if part := part_of(layer):
        prefix = PARTS[part]
        return layer if prefix is None else prefix + module_path(layer, part).replace(".", "_")
    path = module_path(layer, HOST_PREFIX)
    said = (diffusers or {}).get(path, path)
    if said.startswith(ADDED):
        said = path
    return KOHYA_PREFIX + said.replace(".", "_")


def peft_name(layer: str, diffusers: Mapping[str, str] | None = None, part: str = "unet") -> str:
    """Returns a layer's name in a PEFT file: `unet.…`, `transformer.…` or `text_encoder.…`, with
    dots. ValueError for a kohya name, whose dots are lost, unless it is of a CLIP.

    diffusers: as for `kohya_name`. part: what the denoiser's names begin with.
    """
    if clip := CLIP_LAYER.fullmatch(layer):
        number, index, block, leaf = clip.groups()
        encoder = "text_encoder_2" if number == "2" else "text_encoder"
        return f"{encoder}.text_model.encoder.layers.{index}.{block}.{leaf}"
    if layer.startswith(FILE_PREFIXES):
        raise ValueError(
            f"Layer {layer} has no module path, which the peft format needs: save as kohya."
        )
    if own := part_of(layer):
        return own + module_path(layer, own)
    path = module_path(layer, HOST_PREFIX)
    return f"{part}.{(diffusers or {}).get(path, path)}"


def complete_map(layers: Iterable[str], diffusers: Mapping[str, str]) -> Mapping[str, str]:
    """Returns the map of diffusers' paths if it has every layer, else {}, so that a file never
    mixes both kinds of names.
    """
    paths = [n.removeprefix(HOST_PREFIX) for n in layers if not n.startswith(FILE_PREFIXES)]
    return diffusers if all(path in diffusers for path in paths) else {}
