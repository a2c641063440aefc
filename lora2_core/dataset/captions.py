"""Captions, their shuffled variants, and their pairing with the crops of a picture."""

from __future__ import annotations

from random import Random
from typing import TypeVar

T = TypeVar("T")


def shuffled_tags(caption: str, generator: Random) -> str:
    """Returns a caption of tags with commas between them, in random order; the first stays
    first.
    """
    first, *rest = [tag.strip() for tag in caption.split(",") if tag.strip()] or [""]
    generator.shuffle(rest)
    return ", ".join([first, *rest])


def variants(caption: str, count: int, seed: str) -> list[str]:
    """Returns a caption and `count` shuffled variants of it."""
    generator = Random(seed)
    return [caption] + [shuffled_tags(caption, generator) for _ in range(count)]


def paired(crops: list[T], captions: list[str]) -> list[tuple[T, str]]:
    """Returns pairs in which each crop and each caption occurs at least once, as few as
    possible.
    """
    count = max(len(crops), len(captions))
    return [(crops[i % len(crops)], captions[i % len(captions)]) for i in range(count)]


def without_captions(entries: list[tuple[T, str]], share: float, seed: int) -> list[tuple[T, str]]:
    """Returns entries with an empty caption to add to the others, of which they repeat the crops
    evenly. They make up this share of all entries, and are at least one unless it is 0.
    """
    if share == 0 or not entries:
        return []
    count = max(1, round(len(entries) * share / (1 - share)))
    order = Random(f"without captions {seed}").sample(range(len(entries)), len(entries))
    return [(entries[order[i % len(order)]][0], "") for i in range(count)]
