"""Ranks that a person gives to some layers: lines of `pattern = rank` or
`pattern = rank target rank`. Of several lines that match a layer's name, the first counts.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass

# the highest rank that a line may give, as RankSettings.max_rank
MOST = 4096
# characters of a line that an error message repeats
SHOWN = 60
_RANKS = re.compile(r"(\d+)(?:\s+target\s+(\d+))?")


@dataclass(frozen=True)
class Line:
    """One line: a layer that matches `pattern` has at most the rank `most`, and its own `target` in
    place of the target rank of all layers, if that is given.
    """

    pattern: str
    most: int
    target: int | None = None

    def wanted(self, *, moves: bool) -> int | None:
        """Returns the target rank of the layers that match, None where it is that of all layers.

        moves: ranks are learned. Where they are not, `most` is the rank itself.
        """
        return self.target if moves or self.target is not None else self.most


def parse(text: str) -> list[Line]:
    """Returns the lines of a text, without empty lines and comments, which begin with #. Raises
    ValueError for a line of another form.
    """
    parsed = []
    for line in filter(None, (line.strip() for line in text.splitlines())):
        if line.startswith("#"):
            continue
        pattern, sign, ranks = (part.strip() for part in line.rpartition("="))
        match = _RANKS.fullmatch(ranks)
        most = int(match[1]) if match else 0
        target = int(match[2]) if match and match[2] else None
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
        parsed.append(Line(pattern, most, target))
    return parsed


def lines_of(text: str, names: Iterable[str]) -> dict[str, Line]:
    """Returns, for each layer name that a line matches, that line. Raises ValueError for a line
    that counts for no layer.
    """
    lines = parse(text)
    chosen = {
        name: line
        for name in names
        if (line := next((ln for ln in lines if re.search(ln.pattern, name)), None))
    }
    for line in lines:
        if line not in chosen.values():
            raise ValueError(
                f"layer_ranks gives rank {line.most} to {line.pattern!r}, which no layer to train "
                "heeds: check the pattern, and those before it."
            )
    return chosen
