"""What goes between nodes: the pack's socket types, and checks of what comes over a link. A socket
of the right name may carry anything.
"""

from __future__ import annotations

from dataclasses import fields

import torch
from comfy.model_patcher import ModelPatcher
from comfy_api.latest import io

from ..lora2_core import RankedLora
from ..lora2_core.paths import quoted

CATEGORY = "LoRA\u00b2"  # of every node, in the host's menu
Lora2 = io.Custom("LORA2")
Lora2Options = io.Custom("LORA2_OPTIONS")
LoraModel = io.Custom("LORA_MODEL")
# Lets the host send a node's ui output again where the node itself is cached. A part of the schema;
# ComfyUI before 0.20 does not have it.
SHOWN_AGAIN = {f.name: True for f in fields(io.Schema) if f.name == "has_intermediate_output"}


def check_adapter(lora2: object) -> None:
    """Raises ValueError unless the value is an adapter."""
    if not isinstance(lora2, RankedLora):
        raise ValueError("lora2 is no LoRA2 adapter: connect LoRA2 Train or LoRA2 Load.")


def check_model(model: object) -> None:
    """Raises ValueError unless the value is the host's MODEL."""
    if not isinstance(model, ModelPatcher):
        raise ValueError(f"model is {quoted(model)}: connect a loader that gives a MODEL.")


def check_clip(clip: object) -> None:
    """Raises ValueError unless the value is the host's CLIP, or None."""
    if clip is not None and not hasattr(clip, "cond_stage_model"):
        raise ValueError(f"clip is {quoted(clip)}: connect a loader that gives a CLIP, or nothing.")


def check_images(name: str, batches: object) -> None:
    """Raises ValueError unless the value is an IMAGE [B, height, width, 3 or 4], or a list of
    them.
    """
    for images in batches if isinstance(batches, list) else [batches]:
        if not isinstance(images, torch.Tensor) or images.ndim != 4 or images.shape[-1] < 3:
            raise ValueError(f"{name} holds no IMAGE: connect VAE Decode or Load Image.")


def check_texts(name: str, texts: object) -> None:
    """Raises ValueError unless the value is a list of texts that is not empty."""
    if not isinstance(texts, list) or not all(isinstance(text, str) for text in texts) or not texts:
        raise ValueError(f"{name} is {quoted(texts)}: give a text.")


def check_options(options: object) -> dict:
    """Returns the settings that a chain of option nodes made, {} where none is connected. Raises
    ValueError for anything else.
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
        raise ValueError(f"{name} is empty: connect something that gives it, or give it here.")
    return values[0]
