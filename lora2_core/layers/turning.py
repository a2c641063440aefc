"""Finds the singular bases of layers' updates, some layers at a time."""

from __future__ import annotations

import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

import torch
from torch import Tensor

from ..adapter.singular import singular_turn
from .layer import Component
from .moments import together_to

# layers whose small matrices are solved together: one copy to the CPU and one back for them all,
# while 32 pairs of 256 x 256 in fp64 are only 34 MB
SOLVED_AT_ONCE = 32
# a core solves one of rank 192 in 7 ms, a model has hundreds
THREADS = 8
# pairs of one rank that a core solves in one call, whose begin takes longer than rank 16 itself
IN_A_CALL = 4


def solved(pairs: Sequence[Tensor]) -> list[Tensor]:
    """Returns singular_turn of pairs of Gram matrices [2, rank, rank], several at a time."""
    of_rank: dict[int, list[int]] = {}
    for index, pair in enumerate(pairs):
        of_rank.setdefault(pair.shape[-1], []).append(index)
    calls = [
        alike[first : first + IN_A_CALL]
        for alike in of_rank.values()
        for first in range(0, len(alike), IN_A_CALL)
    ]

    def solve(some: list[int]) -> Sequence[Tensor]:
        return torch.stack(singular_turn(*torch.stack([pairs[i] for i in some], 1)), 1).unbind()

    with ThreadPoolExecutor(min(THREADS, os.cpu_count() or 1)) as pool:
        both = zip(calls, pool.map(solve, calls), strict=True)
        found = {i: turn for some, turns in both for i, turn in zip(some, turns, strict=True)}
    return [found[index] for index in range(len(pairs))]


def solved_turns(
    layers: Sequence[Component], weights: Tensor, device: torch.device
) -> dict[int, tuple[Tensor, Tensor]]:
    """Returns singular_turn's (turn, inverse) in fp64, by the row of each layer with an update.

    weights: Lambda, [layers, positions]. The matrices are small, so the CPU solves them faster than
    a GPU: some layers at a time, with one copy to the CPU and one back.
    """
    found: dict[int, tuple[Tensor, Tensor]] = {}
    rows = [row for row, layer in enumerate(layers) if layer.rank]
    for first in range(0, len(rows), SOLVED_AT_ONCE):
        some = rows[first : first + SOLVED_AT_ONCE]
        on_device = [layers[row].grams(weights[row]) for row in some]
        grams = dict(zip(some, together_to(on_device, torch.device("cpu")), strict=True))
        # a layer whose lora_down is zero has no singular basis
        grams = {row: pair for row, pair in grams.items() if pair[1].any()}
        turns = dict(zip(grams, solved(list(grams.values())), strict=True))
        moved = together_to(list(turns.values()), device)
        found |= {r: (t[0], t[1]) for r, t in zip(turns, moved, strict=True)}
    return found
