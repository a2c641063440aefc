"""lora_down and lora_up of some layers, as their paths compute with them: lora_down of one width
behind each other with Lambda, lora_up of one shape in front of each other.

fp16 holds no number above 65,504, and with the paper's init (Lambda A) x passes that. So in fp16
every position is scaled to a lora_down no longer than 1, which makes (Lambda A) x no longer than x.
lora_up is divided by the same power of two: no other bit changes.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from .layer import Component
from .unit import Some, Unit
from .wholes import Whole

# how far a position is scaled in fp16: further, and lora_up might overflow
LARGEST = 2.0**14
# gives the places in Lambda of the positions of layers, by their numbers and lengths
Index = Callable[[list[int], list[int]], Tensor]
# lays parameters behind each other, stacked or not; None where each stays alone
Lay = Callable[[list[nn.Parameter], bool], "Whole | None"]


def power_of_two(lengths: Tensor) -> Tensor:
    """Returns for each length the power of two that makes it at most 1; 1 where it is."""
    lengths = lengths.clamp(1.0, LARGEST)
    # the mantissa of the next smaller number is below 1 for powers of two as well, and exact
    below = torch.nextafter(lengths, torch.zeros_like(lengths))
    return torch.frexp(below).mantissa / below


def behind(tensors: Sequence[Tensor | None]) -> Tensor:
    """Returns tensors behind each other; a single one itself."""
    return tensors[0] if len(tensors) == 1 else torch.cat(tensors)


def stacked(tensors: Sequence[Tensor]) -> Tensor:
    """Returns tensors of one shape in front of each other; of a single one no copy."""
    return tensors[0][None] if len(tensors) == 1 else torch.stack(list(tensors))


def add(found: Some, number: int, gradient: Tensor) -> None:
    """Adds a gradient to those that were found, at this number."""
    there = found[number]
    found[number] = gradient if there is None else there + gradient


class Members:
    """Holds lora_up or lora_down of the layers of these rows, and passes on the gradients that
    their paths got. whole: where they lie behind each other. first: their place in a layer's pair
    (lora_up, lora_down).
    """

    first = 0

    def __init__(self, rows: list[int], parameters: Sequence[nn.Parameter], lay: Lay):
        self.rows, self.whole = rows, lay(list(parameters), self.first == 0)
        self.parameters = [parameter.detach() for parameter in parameters]

    def parts(self, values: Tensor) -> Sequence[Tensor]:
        """Returns the part of each layer."""
        raise NotImplementedError

    def give(self, values: Tensor, there: list[bool], found: Some, *, to_whole: bool) -> None:
        """Adds gradients to `found`, or to those of the whole where all of its members have one.

        values: the gradients of all layers, joined; there: whether each has one.
        """
        if self.whole is not None and to_whole and all(there):
            self.whole.add(values)
            return
        if self.whole is not None:
            self.whole.apart = True
        for row, part, is_there in zip(self.rows, self.parts(values), there, strict=True):
            if is_there:
                add(found, 2 * row + self.first, part)


class Section(Members):
    """Holds lora_down of units of one width behind each other. factors: Lambda of their positions,
    at the places `index` gives for layers of these lengths; scale: that of fp16. None where they
    are 1.
    """

    first = 1

    def __init__(
        self, units: list[list[int]], components: Sequence[Component], dtype: torch.dtype,
        index: Index, lay: Lay, *, folds: bool,
    ):  # fmt: skip
        rows = [row for some in units for row in some]
        super().__init__(rows, [components[row].lora_down for row in rows], lay)
        lengths = [[components[row].capacity for row in some] for some in units]
        self.lengths = [length for some in lengths for length in some]
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
        for some, some_lengths, part in zip(units, lengths, parts, strict=True):
            self.units.append(Unit(tuple(some), some_lengths, part))

    def fill(self, weights: Tensor | None) -> None:
        """Computes lora_down with Lambda."""
        if not self.is_copy:
            return
        values = self.whole.values.detach() if self.whole else behind(self.parameters)
        if self.index is not None and weights is not None:
            self.factors = factors = weights.index_select(0, self.index)
            if self.scale is None:
                torch.mul(values, factors[:, None], out=self.down)
                return
            values = values * factors[:, None]
        if self.scale is not None:
            self.scale.copy_(power_of_two(values.norm(dim=1)))
            torch.mul(values, self.scale[:, None], out=self.down)
        else:
            self.down.copy_(values)

    def gradients(self, found: Some, of_weights: Tensor | None, *, to_whole: bool) -> None:
        """Adds the gradients of lora_down in fp32 to `found`, or to those of the whole, and that of
        Lambda to `of_weights`. Layers that had none are left out.
        """
        if all(unit.of_down is None for unit in self.units):
            return
        of_downs = []
        for unit in self.units:
            of_downs.append(torch.zeros_like(unit.down) if unit.of_down is None else unit.of_down)
            unit.of_down = None
        values = behind(of_downs)
        del of_downs
        # nobody else's from here on: it is written into
        values = values.float() if self.scale is None else values * self.scale[:, None]
        if self.factors is not None and of_weights is not None:
            of_weights.index_add_(0, self.index, self.products(values))
            values *= self.factors[:, None]
        there = [of_up is not None for unit in self.units for of_up in unit.of_ups]
        self.give(values, there, found, to_whole=to_whole)

    def products(self, values: Tensor) -> Tensor:
        """Returns the inner product of each row with that of lora_down. A CPU takes one layer after
        the other, which stay in its cache (24 layers of 2048: 1.3 ms, not 11).
        """
        if self.whole is not None:
            return (values * self.whole.values.detach()).sum(1)
        pairs = zip(self.parts(values), self.parameters, strict=True)
        return behind([(part * own).sum(1) for part, own in pairs])

    def parts(self, values: Tensor) -> Sequence[Tensor]:
        return values.split(self.lengths) if len(self.lengths) > 1 else (values,)


class Stack(Members):
    """Holds lora_up of layers of one shape in front of each other. copies: those that are computed
    with, in their dtype; in fp16 divided by `scale`, that of each layer's positions, which are at
    the places `index` of all layers' scales. paths: the unit of each layer, and its number in it.
    """

    def __init__(
        self, rows: list[int], components: Sequence[Component], dtype: torch.dtype, lay: Lay,
        paths: list[tuple[Unit, int]], index: Tensor | None,
    ):  # fmt: skip
        super().__init__(rows, [components[row].lora_up for row in rows], lay)
        self.paths, self.index = paths, index
        self.scale: Tensor | None = None
        self.copies: Tensor | None = None
        if dtype != torch.float32:
            first = self.parameters[0]
            self.copies = first.new_empty((len(rows), *first.shape), dtype=dtype)
        self.ups = self.parameters if self.copies is None else self.copies.unbind()

    def fill(self, scales: Tensor | None) -> None:
        """Computes the copies. scales: of the positions of all layers, None where they are 1."""
        if self.copies is None:
            return
        values = self.whole.values.detach() if self.whole else stacked(self.parameters)
        if scales is None or self.index is None:
            self.copies.copy_(values)
        else:
            self.scale = scales[self.index][:, None]
            torch.div(values, self.scale, out=self.copies)

    def gradients(self, found: Some, *, to_whole: bool) -> None:
        """Adds the gradients of lora_up in fp32 to `found`, or to those of the whole. Layers that
        had none are left out.
        """
        of_ups = [unit.of_ups[index] for unit, index in self.paths]
        there = [of_up is not None for of_up in of_ups]
        if not any(there):
            return
        for unit, index in self.paths:
            unit.of_ups[index] = None
        if not all(there):
            none = torch.zeros_like(self.ups[0])
            of_ups = [none if of_up is None else of_up for of_up in of_ups]
        values = behind(of_ups).view(-1, *self.ups[0].shape)
        del of_ups
        values = values.float() if self.scale is None else values / self.scale
        self.give(values, there, found, to_whole=to_whole)

    def parts(self, values: Tensor) -> Sequence[Tensor]:
        return values.unbind()
