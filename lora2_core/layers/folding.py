"""The tensors that the paths compute with: lora_down with Lambda folded in, and lora_up, of many
layers at once, in the dtype that they compute in; and the gradients that come back for them.

On a GPU, an operation on a few values costs as much as one on thousands of them. Layers of one
width lie behind each other, so that a few operations serve them all, and layers that get the same
input are one matrix.

fp16 holds no number above 65,504, and with the paper's init (Lambda A) x passes that. So in fp16
every position is scaled to a lora_down no longer than 1, which makes (Lambda A) x no longer than x.
lora_up is divided by the same power of two: no other bit changes.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from .joined import Place
from .layer import Component
from .unit import Some, Unit

# how far a position is scaled in fp16: further, and lora_up might overflow
LARGEST = 2.0**14
# layers whose tensors are computed together at most: what they need meanwhile stays small
TOGETHER = 128
NONE = torch.empty(0)
# gives the places in Lambda of the positions of layers, by their numbers and lengths
Index = Callable[[list[int], list[int]], Tensor]


def path_dtype(x: Tensor) -> torch.dtype:
    """Returns the dtype in which the path computes on inputs like x. The CPU has no fast fp16, so
    fp32 is as quick there, and exact.
    """
    if x.dtype == torch.float16 and x.is_cpu:
        return torch.float32
    return x.dtype


def power_of_two(lengths: Tensor) -> Tensor:
    """Returns for each length the power of two that makes it at most 1; 1 where it is."""
    lengths = lengths.clamp(1.0, LARGEST)
    # the mantissa of the next smaller number is below 1 for powers of two as well, and exact
    below = torch.nextafter(lengths, torch.zeros_like(lengths))
    return torch.frexp(below).mantissa / below


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


def behind(tensors: Sequence[Tensor | None]) -> Tensor:
    """Returns tensors behind each other; a single one itself."""
    return tensors[0] if len(tensors) == 1 else torch.cat(tensors)


def products_of_rows(values: Tensor, others: Sequence[Tensor]) -> Tensor:
    """Returns the inner product of each row of a matrix with that of others behind each other. A
    CPU takes one after the other, which stay in its cache (24 layers of 2048: 1.3 ms, not 11).
    """
    groups = [[others[i] for i in group] for group in alike([0] * len(others), values.device)]
    parts = values.split([sum(other.shape[0] for other in group) for group in groups])
    products = [(part * behind(group)).sum(1) for part, group in zip(parts, groups, strict=True)]
    return behind(products)


def behind_each_other(tensors: Sequence[Tensor], dtype: torch.dtype) -> list[Tensor]:
    """Returns new tensors of the same shapes and another dtype, which lie behind each other."""
    sizes = [t.numel() for t in tensors]
    values = torch.empty(sum(sizes), dtype=dtype, device=tensors[0].device)
    return [v.view(t.shape) for v, t in zip(values.split(sizes), tensors, strict=True)]


def cast(tensors: Sequence[Tensor], dtype: torch.dtype) -> list[Tensor]:
    """Returns contiguous copies of another dtype, which lie behind each other."""
    copies = behind_each_other(tensors, dtype)
    torch._foreach_copy_(copies, tensors)
    return copies


def divided(
    tensors: Sequence[Tensor], scales: Sequence[Tensor], dtype: torch.dtype
) -> list[Tensor]:
    """Returns each lora_up, or its gradient, with its columns divided by its scales."""
    places: list[Tensor] = list(tensors)
    for group in alike([t.shape for t in tensors], tensors[0].device):
        values = torch.stack([tensors[i] for i in group]).float()
        values /= torch.stack([scales[i] for i in group])[:, None]
        for index, part in zip(group, values.to(dtype).unbind(), strict=True):
            places[index] = part
    return places


class Section:
    """Units of one width behind each other. factors: Lambda of their positions, at the places
    `index` gives for layers of these lengths; scale: that of fp16. None where they are 1.
    """

    def __init__(
        self, units: list[list[int]], components: Sequence[Component], dtype: torch.dtype,
        index: Index, *, folds: bool,
    ):  # fmt: skip
        lengths = [[components[row].capacity for row in rows] for rows in units]
        self.rows = [row for rows in units for row in rows]
        self.lengths = [length for some in lengths for length in some]
        self.parameters = [components[row].lora_down.detach() for row in self.rows]
        first = self.parameters[0]
        self.index = index(self.rows, self.lengths) if folds else None
        self.factors: Tensor | None = None
        self.scale: Tensor | None = None
        if dtype == torch.float16:
            self.scale = first.new_empty(sum(self.lengths))
        self.is_copy = folds or dtype != torch.float32 or len(self.rows) > 1
        values = first
        if self.is_copy:
            values = first.new_empty((sum(self.lengths), first.shape[1]), dtype=dtype)
        parts = values.split([sum(some) for some in lengths]) if len(units) > 1 else (values,)
        self.down, self.units = values, []
        for rows, some, part in zip(units, lengths, parts, strict=True):
            self.units.append(Unit(tuple(rows), some, part))

    def fill(self, weights: Tensor | None) -> None:
        """Computes lora_down with Lambda."""
        if not self.is_copy:
            return
        values, down = behind(self.parameters), self.down
        if self.index is not None and weights is not None:
            self.factors = factors = weights.index_select(0, self.index)
            if self.scale is None:
                torch.mul(values, factors[:, None], out=down)
                return
            values = values * factors[:, None]
        if self.scale is not None:
            self.scale.copy_(power_of_two(values.norm(dim=1)))
            torch.mul(values, self.scale[:, None], out=down)
        else:
            down.copy_(values)

    def gradients(self, of_weights: Tensor | None) -> Sequence[Tensor] | None:
        """Returns the gradients of each lora_down in fp32, None where no layer has one; adds that
        of Lambda to `of_weights`.
        """
        if all(unit.of_down is None for unit in self.units):
            return None
        found = []
        for unit in self.units:
            found.append(torch.zeros_like(unit.down) if unit.of_down is None else unit.of_down)
            unit.of_down = None
        values = behind(found).float()  # nobody else's: it is written into
        del found
        if self.scale is not None:
            values *= self.scale[:, None]
        if self.factors is not None:
            of_weights.index_add_(0, self.index, products_of_rows(values, self.parameters))
            values *= self.factors[:, None]
        return values.split(self.lengths) if len(self.lengths) > 1 else (values,)


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
        *,
        folds: bool,
    ):
        self.key: Any = None  # what it was made of
        self.pending: list[Callable[[], None]] = []
        self.sections: list[Section] = []
        device = components[groups[0][0]].lora_down.device
        for some in alike([components[rows[0]].fan_in for rows in groups], device):
            for units in together([groups[i] for i in some]):
                self.sections.append(Section(units, components, dtype, index, folds=folds))
        self.units = [unit for section in self.sections for unit in section.units]
        self.rows = [row for section in self.sections for row in section.rows]
        self.scales = None
        if dtype == torch.float16:
            self.scales = [part for s in self.sections for part in s.scale.split(s.lengths)]
        self.ups = [components[row].lora_up.detach() for row in self.rows]
        self.copies = self.ups
        self.stacks: list[tuple[list[int], Tensor]] = []
        if dtype == torch.float16:
            self.stack(device)
        elif dtype != torch.float32:
            self.copies = behind_each_other(self.ups, dtype)
        given = iter(self.copies)
        for unit in self.units:
            unit.ups = [next(given) for _ in unit.rows]
        copied = [section.down for section in self.sections if section.is_copy]
        copied += [] if self.copies is self.ups else self.copies
        # by layer; without an origin, which would hold the pass
        self.places = {
            row: Place(unit, index, NONE)
            for unit in self.units
            for index, row in enumerate(unit.rows)
        }
        storages = {t.untyped_storage()._cdata: t.untyped_storage() for t in copied}
        self.memory = [(storage, storage.nbytes()) for storage in storages.values()]

    def stack(self, device: torch.device) -> None:
        """Makes room for lora_up of one shape behind each other."""
        self.copies = list(self.ups)
        for group in alike([t.shape for t in self.ups], device):
            shape = len(group), *self.ups[group[0]].shape
            values = self.ups[0].new_empty(shape, dtype=torch.float16)
            self.stacks.append((group, values))
            for index, part in zip(group, values.unbind(), strict=True):
                self.copies[index] = part

    def fill(self, weights: Tensor | None) -> None:
        """Computes all values. weights: the diagonals of Lambda behind each other, None where it
        is 1.
        """
        for storage, size in self.memory:
            if storage.nbytes() != size:
                storage.resize_(size)
        for section in self.sections:
            section.fill(weights)
        for group, values in self.stacks:
            ups = torch.stack([self.ups[i] for i in group])
            torch.div(ups, torch.stack([self.scales[i] for i in group])[:, None], out=values)
        if self.copies is not self.ups and not self.stacks:
            torch._foreach_copy_(self.copies, self.ups)

    def release(self) -> None:
        """Gives the memory of all values back."""
        for section in self.sections:
            section.factors = None
        for storage, _ in self.memory:
            storage.resize_(0)

    def gradients(self, found: Some, of_weights: Tensor | None) -> None:
        """Adds the gradients in fp32 to `found`, lora_up and lora_down of every layer in turn, and
        to `of_weights`. Layers that had none are left out.
        """
        for finish in self.pending:
            finish()
        self.pending.clear()
        of_ups = [gradient for unit in self.units for gradient in unit.of_ups]
        used = [i for i, gradient in enumerate(of_ups) if gradient is not None]
        for section in self.sections:
            there = [g is not None for unit in section.units for g in unit.of_ups]
            of_downs = section.gradients(of_weights)
            for row, gradient, is_there in zip(section.rows, of_downs or (), there, strict=False):
                if is_there:
                    add(found, 2 * row + 1, gradient)
        for unit in self.units:
            unit.of_ups = [None] * len(unit.rows)
        some = [of_ups[i] for i in used]
        if some and self.scales is not None:
            some = divided(some, [self.scales[i] for i in used], torch.float32)
        elif some and some[0].dtype != torch.float32:
            some = cast(some, torch.float32)
        for i, gradient in zip(used, some, strict=True):
            add(found, 2 * self.rows[i], gradient)


def together(units: list[list[int]]) -> list[list[list[int]]]:
    """Returns the units in lists of about TOGETHER layers."""
    lists: list[list[list[int]]] = [[]]
    for unit in units:
        if sum(map(len, lists[-1])) >= TOGETHER:
            lists.append([])
        lists[-1].append(unit)
    return lists


def add(found: Some, place: int, gradient: Tensor) -> None:
    """Adds a gradient to what is found at a place."""
    there = found[place]
    found[place] = gradient if there is None else there + gradient
