"""Reads from the host how a model's layers are named in files, and what model it is."""

from __future__ import annotations

import re
from collections.abc import Mapping

import comfy.lora
import comfy.model_base
import comfy.supported_models
import comfy.utils

from ..adapter.model_names import ModelNames, Target
from ..adapter.names import HOST_PREFIX, KOHYA_PREFIX
from .weights import shapes_in

# host model class -> (ss_base_model_version, modelspec.architecture)
BASES = {
    comfy.model_base.SDXL: ("sdxl_base_v1-0", "stable-diffusion-xl-v1-base"),
    comfy.model_base.Flux: ("flux1", "flux-1-dev"),
    comfy.model_base.SD3: ("sd3", "stable-diffusion-3"),
    comfy.model_base.Lumina2: ("lumina2", "lumina-2"),
    comfy.model_base.QwenImage: ("qwen_image", "Qwen-Image"),
}
# what programs write before a module path that the host knows without it
BEGINNINGS = (
    "", HOST_PREFIX, "unet.", "transformer.", "base_model.model.", "model.diffusion_model.",
    "unet.base_model.model.", "transformer.base_model.model.",
)  # fmt: skip
# beginnings of the paths of CLIPs, whose names are known
CLIPS = "clip_l.", "clip_g.", "clip_h."
# parts of language models that encode pictures or sounds
SENSES = re.compile(r"\.(visual|vision\w*|audio\w*|multi_modal\w*)\.")
SD_CONTEXT = {768: ("sd_v1", "stable-diffusion-v1"), 1024: ("sd_v2", "stable-diffusion-v2-768-v")}


def diffusers_paths(model) -> dict[str, str]:
    """Returns module path -> diffusers' path of each layer of a UNet; {} for other models."""
    table = comfy.utils.unet_to_diffusers(model.model.model_config.unet_config)
    suffix, old = ".weight", "class_embedding."  # the host has two names for one layer, in a set
    return {
        host.removesuffix(suffix): name.removesuffix(suffix)
        for name, host in table.items()
        if host.endswith(suffix) and not name.startswith(old)
    }


def peft_part(model, diffusers: dict[str, str]) -> str:
    """Returns what the denoiser's names in a PEFT file begin with.

    diffusers: what `diffusers_paths` returned. A model without these paths keeps the host's own
    names after a beginning that the host accepts, since diffusers splits the fused layers of Flux.
    """
    if diffusers:
        return "unet"
    keys = comfy.lora.model_lora_keys_unet(model.model, {})
    weights = [k for k in model.model.state_dict() if k.endswith(".weight")]
    paths = [k.removeprefix(HOST_PREFIX).removesuffix(".weight") for k in weights]
    return "transformer" if all(f"transformer.{p}" in keys for p in paths) else "diffusion_model"


def weight_keys(model, clip=None) -> dict:
    """Returns every layer name that is read in a LoRA file -> the weight that it changes: a key, or
    a key with a slice. The host's own names come first, then spellings of other programs.
    """
    keys = comfy.lora.model_lora_keys_unet(model.model, {})
    paths = {n.removeprefix(HOST_PREFIX): k for n, k in keys.items() if "." in n and is_weight(k)}
    paths |= {n: f"{HOST_PREFIX}{path}.weight" for path, n in diffusers_paths(model).items()}
    more = {}
    for path, key in paths.items():
        path = path.removeprefix("transformer.")
        more |= {f"{beginning}{path}": key for beginning in BEGINNINGS}
        more[KOHYA_PREFIX + path.replace(".", "_")] = key
    keys = {**keys, **{name: key for name, key in more.items() if name not in keys}}
    if clip is not None:
        keys = comfy.lora.model_lora_keys_clip(clip.cond_stage_model, keys)
    return keys


def model_names(model, clip=None, rows: Mapping[str, int] | None = None) -> ModelNames:
    """Returns the names of all layers of a model in files.

    rows: weight -> its rows, for a model without values.
    """
    known = comfy.lora.model_lora_keys_unet(model.model, {})
    parts = [model.model]
    if clip is not None:
        known = comfy.lora.model_lora_keys_clip(clip.cond_stage_model, known)
        parts.append(clip.cond_stage_model)
    state = {key for part in parts for key in part.state_dict()}
    keys = {n: k for n, k in known.items() if is_weight(k) and weight_of(k) in state}
    host = len(keys)
    more = weight_keys(model, clip).items()
    keys |= {n: k for n, k in more if n not in keys and is_weight(k) and weight_of(k) in state}
    if rows is None:
        shapes = {key: shape for part in parts for key, shape in shapes_in(part).items()}
        rows = {key: shape[0] for key, shape in shapes.items() if shape}
    suffix = ".weight"
    sizes = {key.removesuffix(suffix): n for key, n in rows.items() if key.endswith(suffix)}
    return ModelNames({name: target_of(key) for name, key in keys.items()}, host, sizes)


def target_of(key: str | tuple) -> Target:
    """Returns what a key of the host means. Slices are always of rows."""
    path = weight_of(key).removesuffix(".weight")
    if isinstance(key, str):
        return Target(path)
    _, start, rows = key[1] or (0, 0, None)
    return Target(path, start, rows, swapped=len(key) > 2)


def weight_of(key: str | tuple) -> str:
    """Returns the weight's name in a key of the host, which may be one of a slice."""
    return key if isinstance(key, str) else key[0]


def is_weight(key: str | tuple) -> bool:
    """Returns whether a key of the host means a weight, or a slice of one, and not a bias."""
    return weight_of(key).endswith(".weight")


def text_layer_names(text_model) -> dict[str, str]:
    """Returns module path -> its name in files, which ComfyUI reads, of each layer of the text
    encoders that encode captions; what encodes pictures or sounds is left out.

    Names of CLIPs begin with lora_te_ where the model has one CLIP, and with lora_te1_ or lora_te2_
    where it has two. Others have a kohya name where ComfyUI knows one, else their path after
    `text_encoders.`.
    """
    keys = comfy.lora.model_lora_keys_clip(text_model, {})
    two = {"clip_l", "clip_g"} <= {name for name, _ in text_model.named_children()}
    prefixes = ("lora_te1_text_model_", "lora_te2_text_model_") if two else "lora_te_text_model_"
    named = {k.removesuffix(".weight"): n for n, k in keys.items() if n.startswith(prefixes)}
    for beginning in ("lora_te", "text_encoders."):
        for name, key in keys.items():
            path = key.removesuffix(".weight")
            if (
                name.startswith(beginning)
                and not path.startswith(CLIPS)
                and not SENSES.search(path)
            ):
                named.setdefault(path, name)
    return named


def base_facts(model) -> dict:
    """Returns the fields of adapter.origin.BaseModel that the host knows, except the paths."""
    inner = model.model
    facts = {"prediction": "v" if inner.model_type.name.startswith("V_PREDICTION") else "epsilon"}
    if inner.model_type.name in ("FLOW", "FLUX"):
        facts["prediction"] = "flow"
    context = inner.model_config.unet_config.get("context_dim")
    sdxl = isinstance(inner, comfy.model_base.SDXL)
    version = BASES.get(comfy.model_base.SDXL if sdxl else type(inner), SD_CONTEXT.get(context))
    if isinstance(inner.model_config, comfy.supported_models.ZImage):  # a Lumina by its class
        version = ("z_image", "Z-Image")
    if version is not None:
        facts |= {"version": version[0], "architecture": version[1], "v2": version[0] == "sd_v2"}
    return facts
