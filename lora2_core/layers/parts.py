"""Which part of a model each of its blocks belongs to, from the model's own structure.

A U-shaped model goes down, through its middle, and up again. In a transformer, a double block has
streams that keep weights of their own, such as one for pictures and one for text: it holds several
feed-forwards. All other blocks have a single stream.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping

from torch import nn

from .structure import FEED_FORWARD, Place, ancestors, below, places, words

DOWN, MID, UP, DOUBLE, SINGLE, OTHER = "down", "mid", "up", "double", "single", "other"
PARTS = (DOWN, MID, UP, DOUBLE, SINGLE, OTHER)
_SIDES = {
    "down": DOWN, "input": DOWN, "mid": MID, "middle": MID, "up": UP, "output": UP,
}  # fmt: skip


def parts(model: nn.Module) -> dict[str, str]:
    """Returns the name of each block of a model -> one of PARTS, in the model's order."""
    layers: dict[str, dict[str, Place]] = defaultdict(dict)
    for name, place in places(model).items():
        if place.block:
            layers[place.block][name] = place
    sides = {block: side_of(block) for block in layers}
    if {DOWN, UP} <= set(sides.values()):
        return {block: side or OTHER for block, side in sides.items()}
    double = {stack_of(block) for block, inside in layers.items() if streams(block, inside) > 1}
    return {block: DOUBLE if stack_of(block) in double else SINGLE for block in layers}


def side_of(block: str) -> str | None:
    """Returns where in a U-shaped model a block is, as the name of its stack says."""
    spoken = words(block.partition(".")[0])
    return next((_SIDES[word] for word in spoken if word in _SIDES), None)


def stack_of(block: str) -> str:
    """Returns the name of the list that a block is an entry of."""
    return block.rpartition(".")[0]


def streams(block: str, layers: Mapping[str, Place]) -> int:
    """Returns how many parts of a block have a feed-forward of their own.

    layers: those of the block, by their names.
    """
    paths = [below(name, block) for name in layers]
    depth = 0
    while all(len(path) > depth + 1 for path in paths) and len({p[depth] for p in paths}) == 1:
        depth += 1
    wide = [path for path, place in zip(paths, layers.values(), strict=True)
            if place.kind == FEED_FORWARD]  # fmt: skip
    return len({path[depth] for path in wide if len(path) > depth + 1})


def part_of(path: str, blocks: Mapping[str, str]) -> str:
    """Returns the part of any module of a model: that of the block around it, else OTHER.

    blocks: what `parts` returned.
    """
    return next((blocks[a] for a in (*ancestors(path), path) if a in blocks), OTHER)
