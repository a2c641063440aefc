"""The tensors that the paths compute with: lora_down with Lambda folded in, and lora_up, of many
layers at once, in the dtype that they compute in; and the gradients that come back for them.

On a GPU, an operation on a few values costs as much as one on thousands of them. Layers of one
width lie behind each other, so that a few operations serve them all, and layers that get the same
input are one matrix.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import accumulate
from typing import Any

import torch
from torch import Tensor

from .joined import Pair
from .layer import Component
from .sections import Index, Lay, Section, Stack, behind
from .storage import storage_of
from .unit import Some

# layers whose tensors are computed together at most: what they need meanwhile stays small
TOGETHER = 128
NONE = torch.empty(0)


def path_dtype(x: Tensor) -> torch.dtype:
    """Returns the dtype in which the path computes on inputs like x. The CPU has no fast fp16, so
    fp32 is as quick there, and exact.
    """
    if x.dtype == torch.float16 and x.is_cpu:
        return torch.float32
    return x.dtype


def alike(sizes: Sequence[object], device: torch.device) -> list[list[int]]:
    """Returns the indices of equal sizes, up to TOGETHER of them; each alone on a CPU, where
    operations cost what they compute.
    """
    groups: dict[tuple, list[int]] = {}
    for index, size in enumerate(sizes):
        groups.setdefault((size, index if device.type == "cpu" else 0), []).append(index)
    return [
        group[first : first + TOGETHER]
        for group in groups.values()
        for first in range(0, len(group), TOGETHER)
    ]


def lie_together(device: torch.device) -> bool:
    """Returns whether parameters of many layers lie behind each other on a device."""
    return len(alike((0, 0), device)) == 1


class Sheet:
    """What the paths of some layers compute with in one pass, in one dtype, after `fill`. Its views
    are made once and serve many passes; after `release` it takes no memory until then.

    groups: the numbers of the layers, those that get the same input together. folds: whether Lambda
    is not 1. `pending`: what must still be computed before the gradients are complete.
    """

    def __init__(
        self,
        groups: list[list[int]],
        components: Sequence[Component],
        dtype: torch.dtype,
        index: Index,
        lay: Lay,
        *,
        folds: bool,
    ):
        self.made_of: Any = None
        self.pending: list[Callable[[], None]] = []
        self.sections: list[Section] = []
        device = components[groups[0][0]].lora_down.device
        for some in alike([components[rows[0]].fan_in for rows in groups], device):
            for units in together([groups[i] for i in some]):
                self.sections.append(Section(units, components, dtype, index, lay, folds=folds))
        self.units = [unit for section in self.sections for unit in section.units]
        paths = [(unit, index) for unit in self.units for index in range(len(unit.rows))]
        rows = [unit.rows[index] for unit, index in paths]
        lengths = [components[row].capacity for row in rows]
        starts = [0, *accumulate(lengths)]
        self.stacks: list[Stack] = []
        ups: dict[int, Tensor] = {}
        for group in alike([components[row].lora_up.shape for row in rows], device):
            some = [rows[i] for i in group]
            places: Tensor | None = None
            if dtype == torch.float16:
                firsts = torch.tensor([starts[i] for i in group], device=device)
                places = firsts[:, None] + torch.arange(lengths[group[0]], device=device)
            stack = Stack(some, components, dtype, lay, [paths[i] for i in group], places)
            self.stacks.append(stack)
            ups |= zip(stack.rows, stack.ups, strict=True)
        for unit in self.units:
            unit.take([ups[row] for row in unit.rows])
        copied = [section.down for section in self.sections if section.is_copy]
        copied += [stack.copies for stack in self.stacks if stack.copies is not None]
        # by layer; without an origin, which would hold the pass
        self.pairs = {
            row: Pair(unit, index, NONE)
            for unit in self.units
            for index, row in enumerate(unit.rows)
        }
        storages = {storage_of(t): t.untyped_storage() for t in copied}
        self.memory = [(storage, storage.nbytes()) for storage in storages.values()]

    def fill(self, weights: Tensor | None) -> None:
        """Computes all values. weights: the diagonals of Lambda behind each other, None where it
        is 1.
        """
        for storage, size in self.memory:
            if storage.nbytes() != size:
                storage.resize_(size)
        for section in self.sections:
            section.fill(weights)
        scales = [section.scale for section in self.sections if section.scale is not None]
        scale = behind(scales) if scales else None
        for stack in self.stacks:
            stack.fill(scale)

    def release(self) -> None:
        """Gives the memory of all values back."""
        self.pending.clear()
        for section in self.sections:
            section.factors = None
        for stack in self.stacks:
            stack.scale = None
        for storage, _ in self.memory:
            storage.resize_(0)

    def gradients(self, found: Some, of_weights: Tensor | None, *, to_wholes: bool = False) -> None:
        """Adds the gradients in fp32 to `found`, lora_up and lora_down of every layer in turn, and
        to `of_weights`. Layers that had none are left out. to_wholes: where all parameters that lie
        behind each other have one, it is added there instead.
        """
        for finish in self.pending:
            finish()
        for section in self.sections:
            section.gradients(found, of_weights, to_whole=to_wholes)
        for stack in self.stacks:
            stack.gradients(found, to_whole=to_wholes)


def together(units: list[list[int]]) -> list[list[list[int]]]:
    """Returns the units in lists of about TOGETHER layers."""
    lists: list[list[list[int]]] = [[]]
    for unit in units:
        if sum(map(len, lists[-1])) >= TOGETHER:
            lists.append([])
        lists[-1].append(unit)
    return lists
