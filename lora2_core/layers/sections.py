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
from .unit import Unit
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


class Section:
    """Holds units of one width behind each other. factors: Lambda of their positions, at the places
    `index` gives for layers of these lengths; scale: that of fp16. None where they are 1.
    """

    def __init__(
        self, units: list[list[int]], components: Sequence[Component], dtype: torch.dtype,
        index: Index, lay: Lay, *, folds: bool,
    ):  # fmt: skip
        lengths = [[components[row].capacity for row in rows] for rows in units]
        self.rows = [row for rows in units for row in rows]
        self.lengths = [length for some in lengths for length in some]
        self.whole = lay([components[row].lora_down for row in self.rows], False)
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

    def gradients(self, of_weights: Tensor | None) -> Tensor | None:
        """Returns the gradients of all lora_down behind each other in fp32, None where no layer has
        one; adds that of Lambda to `of_weights`.
        """
        if all(unit.of_down is None for unit in self.units):
            return None
        of_downs = []
        for unit in self.units:
            of_downs.append(torch.zeros_like(unit.down) if unit.of_down is None else unit.of_down)
            unit.of_down = None
        values = behind(of_downs).float()  # nobody else's: it is written into
        del of_downs
        if self.scale is not None:
            values *= self.scale[:, None]
        if self.factors is not None and of_weights is not None:
            of_weights.index_add_(0, self.index, self.products(values))
            values *= self.factors[:, None]
        return values

    def products(self, values: Tensor) -> Tensor:
        """Returns the inner product of each row with that of lora_down. A CPU takes one layer after
        the other, which stay in its cache (24 layers of 2048: 1.3 ms, not 11).
        """
        if self.whole is not None:
            return (values * self.whole.values.detach()).sum(1)
        pairs = zip(self.parts(values), self.parameters, strict=True)
        return behind([(part * own).sum(1) for part, own in pairs])

    def parts(self, values: Tensor) -> Sequence[Tensor]:
        """Returns the part of each layer."""
        return values.split(self.lengths) if len(self.lengths) > 1 else (values,)


class Stack:
    """Holds lora_up of layers of one shape in front of each other. copies: those that are computed
    with, in their dtype; in fp16 divided by `scales`, those of each layer's positions.
    """

    def __init__(
        self, rows: list[int], components: Sequence[Component], dtype: torch.dtype, lay: Lay,
        scales: list[Tensor] | None,
    ):  # fmt: skip
        self.rows, self.scales = rows, scales
        self.whole = lay([components[row].lora_up for row in rows], True)
        self.parameters = [components[row].lora_up.detach() for row in rows]
        self.copies: Tensor | None = None
        if dtype != torch.float32:
            first = self.parameters[0]
            self.copies = first.new_empty((len(rows), *first.shape), dtype=dtype)
        self.ups = self.parameters if self.copies is None else self.copies.unbind()

    def fill(self) -> None:
        """Computes the copies."""
        if self.copies is None:
            return
        values = self.whole.values.detach() if self.whole else stacked(self.parameters)
        if self.scales is None:
            self.copies.copy_(values)
        else:
            torch.div(values, stacked(self.scales)[:, None], out=self.copies)

    def gradients(self, found: Sequence[Tensor], layers: Sequence[int]) -> Tensor:
        """Returns the gradients of some of the layers in fp32, in front of each other."""
        values = stacked(found).float()
        if self.scales is not None:
            values = values / stacked([self.scales[i] for i in layers])[:, None]
        return values
