"""Ranks of single layers: lines of `pattern = rank`, the first pattern that a layer's name matches
counts.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

MOST = 4096


def parse(text: str) -> list[tuple[re.Pattern, int]]:
    """(pattern, rank) of each line; empty lines and those that begin with # say nothing. ValueError
    for anything else.
    """
    found = []
    for line in filter(None, (line.strip() for line in text.splitlines())):
        if line.startswith("#"):
            continue
        pattern, sign, rank = (part.strip() for part in line.rpartition("="))
        if not sign or not pattern or not rank.isdecimal() or not 1 <= int(rank) <= MOST:
            raise ValueError(
                f"layer_ranks has the line {line!r}: write a pattern, = and a rank from 1 to "
                f"{MOST}, such as attn2 = 16."
            )
        try:
            found.append((re.compile(pattern), int(rank)))
        except re.error as error:
            raise ValueError(
                f"layer_ranks has the pattern {pattern!r}, which is no regular expression "
                f"({error}): correct it."
            ) from error
    return found


def ranks_of(text: str, names: Iterable[str]) -> dict[str, int]:
    """The rank of each layer that a line speaks of; ValueError for a line that no layer heeds."""
    names, heeded, found = list(names), set(), {}
    lines = parse(text)
    for name in names:
        for index, (pattern, rank) in enumerate(lines):
            if pattern.search(name):
                heeded.add(index)
                found[name] = rank
                break
    for index, (pattern, rank) in enumerate(lines):
        if index not in heeded:
            raise ValueError(
                f"layer_ranks gives rank {rank} to {pattern.pattern!r}, which no layer to train "
                "heeds: check the pattern, and those before it."
            )
    return found
