"""Holds the pack's socket types, and checks the values that come over a link: a link may carry any
value, whatever the name of its socket.
"""

from __future__ import annotations

from dataclasses import fields

import torch
from comfy.model_patcher import ModelPatcher
from comfy_api.latest import io

from ..lora2_core import RankedLora
from ..lora2_core.adapter.strengths import Strengths
from ..lora2_core.paths import quoted

CATEGORY = "LoRA\u00b2"  # of every node, in the host's menu
Lora2 = io.Custom("LORA2")
Lora2Options = io.Custom("LORA2_OPTIONS")
LoraModel = io.Custom("LORA_MODEL")
BlockStrengths = io.Custom("LORA2_STRENGTHS")
LoraStack = io.Custom("LORA_STACK")  # of many packs: lora2_core/host/lora_stack.py
# A field of the schema. With it the host sends a node's ui output again when the node is cached.
# ComfyUI before 0.20 does not have this field.
SHOWN_AGAIN = {f.name: True for f in fields(io.Schema) if f.name == "has_intermediate_output"}


def check_adapter(lora2: object) -> None:
    """Raises ValueError unless the value is an adapter."""
    if not isinstance(lora2, RankedLora):
        raise ValueError(f"lora2 is {quoted(lora2)}: connect LoRA2 Train or LoRA2 Load.")


def check_pairs(lora2: RankedLora) -> None:
    """Raises ValueError for an adapter without low-rank pairs, which has no ranks to show."""
    if not lora2.layers:
        kinds = ", ".join(sorted({change.kind for change in lora2.others.values()}))
        raise ValueError(
            f"lora2 has no low-rank pairs, but changes of other kinds ({kinds or 'none'}): LoRA2 "
            "Compress makes pairs of them."
        )


def check_model(model: object) -> None:
    """Raises ValueError unless the value is the host's MODEL."""
    if not isinstance(model, ModelPatcher):
        raise ValueError(f"model is {quoted(model)}: connect a loader that gives a MODEL.")


def check_clip(clip: object) -> None:
    """Raises ValueError unless the value is the host's CLIP, or None."""
    if clip is not None and not hasattr(clip, "cond_stage_model"):
        raise ValueError(f"clip is {quoted(clip)}: connect a loader that gives a CLIP, or nothing.")


def check_strengths(strengths: object) -> None:
    """Raises ValueError unless the value comes from LoRA2 Block Strengths, or is None."""
    if strengths is not None and not isinstance(strengths, Strengths):
        raise ValueError(f"strengths is {quoted(strengths)}: connect LoRA2 Block Strengths.")


def check_images(name: str, batches: object) -> None:
    """Raises ValueError unless the value is an IMAGE [B, height, width, 3 or 4], or a list of
    them.
    """
    for images in batches if isinstance(batches, list) else [batches]:
        if not isinstance(images, torch.Tensor) or images.ndim != 4 or images.shape[-1] < 3:
            shape = f"a tensor {tuple(images.shape)}" if torch.is_tensor(images) else quoted(images)
            raise ValueError(f"{name} is {shape}: connect VAE Decode or Load Image.")


def check_texts(name: str, texts: object) -> None:
    """Raises ValueError unless the value is a list of texts that is not empty."""
    if not isinstance(texts, list) or not all(isinstance(text, str) for text in texts) or not texts:
        raise ValueError(f"{name} is {quoted(texts)}: give a text.")


def check_options(options: object) -> dict:
    """Returns the settings that a chain of option nodes made, or {} if no option node is connected.
    Raises ValueError for any other value.
    """
    if options is None:
        return {}
    if not isinstance(options, dict) or not all(isinstance(key, str) for key in options):
        raise ValueError(f"options is {quoted(options)}: connect LoRA2 option nodes.")
    return options


def first(name: str, values: object) -> object:
    """Returns the first value of an input, for nodes whose inputs arrive as lists. Raises
    ValueError where the list is empty.
    """
    if not isinstance(values, (list, tuple)) or not values:
        raise ValueError(
            f"{name} is {quoted(values)}: connect a node that gives a value, or enter one here."
        )
    return values[0]
