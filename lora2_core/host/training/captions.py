"""Captions that can be trained: one text a picture, finite, and without the limits that only
sampling follows.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

LIMITS = {
    "area": "an area of the picture",
    "mask": "a mask",
    "control": "a ControlNet",
    "gligen": "GLIGEN boxes",
    "hooks": "hooks",
}
RANGES = ("start_percent", "end_percent"), ("clip_start_percent", "clip_end_percent")


def tensors_in(value: object) -> Iterator[Tensor]:
    """Yields the tensors of nested dicts, lists and tuples."""
    if torch.is_tensor(value):
        yield value
    elif isinstance(value, (list, tuple)):
        for each in value:
            yield from tensors_in(each)
    elif isinstance(value, dict):
        yield from tensors_in(list(value.values()))


def limit_of(facts: dict) -> str | None:
    """Returns what keeps a text from being said of the whole picture at every step, in words."""
    for name, words in LIMITS.items():
        if facts.get(name) is not None:
            return words
    for start, end in RANGES:
        first, last = facts.get(start), facts.get(end)
        if (0 if first is None else first) > 0 or (1 if last is None else last) < 1:
            return "a range of steps"
    return None


def check_caption(number: int, given: list) -> None:
    """Raises ValueError where the CONDITIONING of a picture can't be trained as it is meant."""
    if len(given) > 1:
        raise ValueError(
            f"Caption {number} holds {len(given)} texts, combined or scheduled, but a picture is "
            "trained with one: connect one CLIP Text Encode for each picture, or LoRA2 Dataset."
        )
    for cross, facts in given:
        if cross.ndim == 3 and len(cross) > 1:
            raise ValueError(
                f"Caption {number} holds a batch of {len(cross)} texts, but a picture is trained "
                "with one: connect one CLIP Text Encode for each picture, or LoRA2 Dataset."
            )
        if cross.numel() == 0:
            raise ValueError(f"Caption {number} is empty: encode it with the CLIP of the model.")
        if (words := limit_of(facts)) is not None:
            raise ValueError(
                f"Caption {number} is limited to {words}, which training does not follow: connect "
                "the text without it. Masks for training go to LoRA2 Data Options."
            )
        if not all(finite(t) for t in tensors_in([cross, facts])):
            raise ValueError(
                f"Caption {number} holds NaN or infinite values: check the text, and the text "
                "encoder that made it."
            )


def finite(tensor: Tensor) -> bool:
    """Returns whether all values are finite; those of whole numbers are."""
    return not tensor.is_floating_point() or bool(torch.isfinite(tensor).all())


def strengths(positive: object) -> bool:
    """Returns whether a caption has a strength other than 1, which training does not use."""
    if isinstance(positive, dict):
        return positive.get("strength", 1) != 1
    return isinstance(positive, (list, tuple)) and any(map(strengths, positive))
