"""Captions and their variants, and how they are paired with the variants of a picture."""

from __future__ import annotations

from random import Random
from typing import TypeVar

T = TypeVar("T")


def shuffled_tags(caption: str, generator: Random) -> str:
    """Returns the comma-separated tags in another order; the first stays first."""
    first, *rest = [tag.strip() for tag in caption.split(",") if tag.strip()] or [""]
    generator.shuffle(rest)
    return ", ".join([first, *rest])


def variants(caption: str, count: int, seed: str) -> list[str]:
    """Returns the caption and `count` shuffled ones."""
    generator = Random(seed)
    return [caption] + [shuffled_tags(caption, generator) for _ in range(count)]


def paired(crops: list[T], captions: list[str]) -> list[tuple[T, str]]:
    """Returns each crop and each caption at least once, in as few pairs as that takes."""
    count = max(len(crops), len(captions))
    return [(crops[i % len(crops)], captions[i % len(captions)]) for i in range(count)]


def without_captions(entries: list[tuple[T, str]], share: float, seed: int) -> list[tuple[T, str]]:
    """Entries with an empty caption to add, so that they are this share of all; at least one
    unless the share is 0. Spread evenly over the entries there are.
    """
    if share == 0 or not entries:
        return []
    count = max(1, round(len(entries) * share / (1 - share)))
    order = Random(f"without captions {seed}").sample(range(len(entries)), len(entries))
    return [(entries[order[i % len(order)]][0], "") for i in range(count)]
