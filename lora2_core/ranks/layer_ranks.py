"""Ranks of single layers: lines of `pattern = rank` or `pattern = rank target rank`, the first
pattern that a layer's name matches counts.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass

MOST, SHOWN = 4096, 60  # ranks; characters of a line in a sentence
_RANKS = re.compile(r"(\d+)(?:\s+target\s+(\d+))?")


@dataclass(frozen=True)
class Line:
    """What one line says: layers that match have at most the rank `most`, and `target` in place of
    the target rank of all.
    """

    pattern: str
    most: int
    target: int | None = None

    def wanted(self, *, moves: bool) -> int | None:
        """Returns the target rank of its layers, None where it is that of all: a line without one
        is an order where ranks do not move.
        """
        return self.target if moves or self.target is not None else self.most


def parse(text: str) -> list[Line]:
    """Returns each line; empty ones and those that begin with # say nothing. ValueError for
    anything else.
    """
    found = []
    for line in filter(None, (line.strip() for line in text.splitlines())):
        if line.startswith("#"):
            continue
        pattern, sign, ranks = (part.strip() for part in line.rpartition("="))
        match = _RANKS.fullmatch(ranks)
        most, target = (int(n) if n else None for n in match.groups()) if match else (0, None)
        shown = repr(line[:SHOWN])
        if not sign or not pattern or not 1 <= most <= MOST:
            raise ValueError(
                f"layer_ranks has the line {shown}: write a pattern, = and a rank from 1 to "
                f"{MOST}, such as attn2 = 16, or attn2 = 16 target 8."
            )
        if target is not None and not 1 <= target <= most:
            raise ValueError(
                f"layer_ranks has the line {shown}, whose target is not from 1 to {most}: lower "
                "the target or raise the rank."
            )
        try:
            re.compile(pattern)
        except re.error as error:
            raise ValueError(
                f"layer_ranks has the pattern {pattern!r}, which is no regular expression "
                f"({error}): correct it."
            ) from error
        found.append(Line(pattern, most, target))
    return found


def lines_of(text: str, names: Iterable[str]) -> dict[str, Line]:
    """Returns the line that speaks of each layer, for those that one does; ValueError for a line
    that no layer heeds.
    """
    lines = parse(text)
    found = {
        name: line
        for name in names
        if (line := next((ln for ln in lines if re.search(ln.pattern, name)), None))
    }
    for line in lines:
        if line not in found.values():
            raise ValueError(
                f"layer_ranks gives rank {line.most} to {line.pattern!r}, which no layer to train "
                "heeds: check the pattern, and those before it."
            )
    return found
