"""Finds the singular bases of layers' updates, some layers at a time."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from ..adapter.singular import singular_turn
from .layer import Component
from .moments import together_to

# layers whose small matrices are solved together: one copy to the CPU and one back for them all,
# while 32 pairs of 256 x 256 in fp64 are only 34 MB
SOLVED_AT_ONCE = 32


def solved_turns(
    layers: Sequence[Component], weights: Tensor, device: torch.device
) -> dict[int, tuple[Tensor, Tensor]]:
    """Returns singular_turn's (turn, inverse) in fp64, by the row of each layer with an update.

    weights: Lambda, [layers, positions]. The matrices are small, so the CPU solves them faster than
    a GPU: some layers at a time, with one copy to the CPU and one back.
    """
    solved: dict[int, tuple[Tensor, Tensor]] = {}
    rows = [row for row, layer in enumerate(layers) if layer.rank]
    for first in range(0, len(rows), SOLVED_AT_ONCE):
        some = rows[first : first + SOLVED_AT_ONCE]
        on_device = [layers[row].grams(weights[row]) for row in some]
        grams = dict(zip(some, together_to(on_device, torch.device("cpu")), strict=True))
        # a layer whose lora_down is zero has no singular basis
        turns = {r: torch.stack(singular_turn(*g)) for r, g in grams.items() if g[1].any()}
        moved = together_to(list(turns.values()), device)
        solved |= {r: (t[0], t[1]) for r, t in zip(turns, moved, strict=True)}
    return solved
