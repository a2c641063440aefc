"""Captions that can be trained on: the graph's CONDITIONINGs as one entry a picture.

An entry is the host's pair: what the text encoder gave [B, tokens, width], and a dict of what goes
with it, such as pooled_output.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

LIMITS = {  # in an entry's dict -> in words
    "area": "an area of the picture",
    "mask": "a mask",
    "control": "a ControlNet",
    "gligen": "GLIGEN boxes",
    "hooks": "hooks",
}
RANGES = ("start_percent", "end_percent"), ("clip_start_percent", "clip_end_percent")


def flatten_conditioning(positive: list[list], count: int) -> list[list]:
    """Returns one entry for each of `count` pictures. Raises ValueError unless there are as many as
    pictures, or one for all, and each can be trained on.
    """
    positive = positive if isinstance(positive, list) else [positive]
    captions = [given if isinstance(given, list) else [given] for given in positive]
    entries = [entry for given in captions for entry in given]
    if not all(map(is_entry, entries)):
        raise ValueError(
            "positive holds something that is no CONDITIONING: connect a CLIP Text Encode or a "
            "dataset node."
        )
    if not entries:
        raise ValueError(
            "positive is empty: connect a CLIP Text Encode or the conditioning of a dataset node."
        )
    check_captions(captions)
    if len(entries) == 1:
        return entries * count
    if len(entries) != count:
        raise ValueError(
            f"There are {count} latents but {len(entries)} captions: give one caption for all, or "
            "one for each picture."
        )
    return entries


def is_entry(entry: object) -> bool:
    """Returns whether this is one entry of a CONDITIONING."""
    if not (isinstance(entry, (list, tuple)) and len(entry) == 2):
        return False
    cross, facts = entry
    return torch.is_tensor(cross) and cross.ndim >= 2 and isinstance(facts, dict)


def check_captions(captions: Sequence[list]) -> None:
    """Raises ValueError where one of these CONDITIONINGs can't be trained on as it is meant. One
    entry of many pictures is looked at once.
    """
    seen: set[int] = set()
    for number, caption in enumerate(captions, 1):
        if not caption:
            raise ValueError(f"Caption {number} is empty: connect a CLIP Text Encode.")
        if id(caption[0]) not in seen or len(caption) > 1:
            check_caption(number, caption)
        seen.add(id(caption[0]))


def check_caption(number: int, caption: list) -> None:
    """Raises ValueError where the CONDITIONING of this number can't be trained on as it is
    meant.
    """
    if len(caption) > 1:
        raise ValueError(
            f"Caption {number} holds {len(caption)} texts, combined or scheduled, but a picture is "
            "trained with one: connect one CLIP Text Encode for each picture, or LoRA2 Dataset."
        )
    for cross, facts in caption:
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
        if not all(is_finite(tensor) for tensor in tensors_in([cross, facts])):
            raise ValueError(
                f"Caption {number} holds NaN or infinite values: check the text, and the text "
                "encoder that made it."
            )


def limit_of(facts: dict) -> str | None:
    """Returns in words what limits a caption to a part of the picture or of the steps, None where
    nothing does.
    """
    for name, words in LIMITS.items():
        if facts.get(name) is not None:
            return words
    for start, end in RANGES:
        first, last = facts.get(start), facts.get(end)
        if (0 if first is None else first) > 0 or (1 if last is None else last) < 1:
            return "a range of steps"
    return None


def tensors_in(value: object) -> Iterator[Tensor]:
    """Yields the tensors of nested dicts, lists and tuples."""
    if torch.is_tensor(value):
        yield value
    elif isinstance(value, (list, tuple)):
        for each in value:
            yield from tensors_in(each)
    elif isinstance(value, dict):
        yield from tensors_in(list(value.values()))


def is_finite(tensor: Tensor) -> bool:
    """Returns whether all values are finite; integers are."""
    return not tensor.is_floating_point() or bool(torch.isfinite(tensor).all())


def has_strength(positive: object) -> bool:
    """Returns whether a caption has a strength other than 1, which training does not use."""
    if isinstance(positive, dict):
        return positive.get("strength", 1) != 1
    return isinstance(positive, (list, tuple)) and any(map(has_strength, positive))
