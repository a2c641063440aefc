"""Sorts layers in the order of their model; a file may have them in any order."""

from __future__ import annotations

import re
from dataclasses import replace

from .lora import RankedLora
from .names import HOST_PREFIX, KOHYA_PREFIX

# words that sort before others at the same position in a name; any other word counts as 0
_EARLY = {
    "time": -9, "label": -9,
    "input": -3, "down": -3, "middle": -2, "mid": -2, "output": -1, "up": -1,
    "q": -3, "k": -2, "v": -1, "in": -1,
}  # fmt: skip
_TEXT_ENCODER = re.compile(r"(lora_te|text_encoder|.*\btext_model)")


def of_text_encoder(name: str) -> bool:
    """Returns whether a layer belongs to a text encoder, by a name of any form."""
    return bool(_TEXT_ENCODER.match(name))


def order_key(name: str) -> tuple:
    """Returns the key by which layer names sort in the order of the model: the denoiser before the
    text encoders; down, mid, up; numbers by value; and q, k, v, out.
    """
    path = name.removeprefix(HOST_PREFIX).removeprefix(KOHYA_PREFIX).removeprefix("unet.")
    path = path.replace("text_encoder.", "text_encoder_1.")
    words = re.findall(r"\d+|[a-z]+", path.lower())
    parts = [(0, int(w), "") if w.isdecimal() else (1, _EARLY.get(w, 0), w) for w in words]
    return bool(_TEXT_ENCODER.match(path)), parts, name


def in_model_order(lora: RankedLora) -> RankedLora:
    """Returns the adapter with its layers in the order of the model. An adapter that knows its
    learned ranks has them in the order of its training, which stays.
    """
    if lora.origin.learned.ranks:
        return lora
    return replace(lora, layers={n: lora.layers[n] for n in sorted(lora.layers, key=order_key)})
