"""The sheets that all layers' paths compute with, kept from pass to pass, and how the layers'
parameters lie in memory.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from .folding import Sheet, lie_together
from .layer import Component
from .sections import Index
from .wholes import Whole

SPARE = 4  # sheets that are kept: one for each dtype that layers compute in


class Sheets:
    """Makes the sheets of passes. spare: of passes that are over, for the next ones. laid:
    parameters that lie behind each other.
    """

    def __init__(self, components: Sequence[Component]):
        self.components = components
        self.spare: list[Sheet] = []
        self.laid: list[Whole] = []
        self.measured = -1, 0  # Component.moved then, and the largest capacity

    @property
    def parameters(self) -> list[nn.Parameter]:
        """Returns lora_up and lora_down of every layer in turn."""
        return [p for c in self.components for p in (c.lora_up, c.lora_down)]

    @property
    def longest(self) -> int:
        """Returns the largest capacity of a layer."""
        if self.measured[0] != Component.moved:
            self.measured = Component.moved, max(c.capacity for c in self.components)
        return self.measured[1]

    def sheet(
        self, units: list[list[int]], dtype: torch.dtype, index: Index, width: int, *, folds: bool
    ) -> Sheet:
        """Returns a sheet of these layers without values, one of before where nothing but values
        has changed. width: of Lambda.
        """
        made_of = dtype, folds, width, units
        for sheet in self.spare:
            if sheet.made_of == (made_of, Component.moved):
                self.spare.remove(sheet)
                return sheet
        self.spare = []
        sheet = Sheet(units, self.components, dtype, index, self.lay, folds=folds)
        self.tidy()
        sheet.made_of = made_of, Component.moved
        return sheet

    def keep(self, sheets: list[Sheet]) -> None:
        """Keeps the sheets of a pass that is over, but not their memory. A pass that finds out what
        layers compute with has one for each, and they don't come again.
        """
        if len(sheets) <= SPARE:
            for sheet in sheets:
                sheet.release()
            self.spare = list(sheets)

    def lay(self, members: list[nn.Parameter], stacked: bool) -> Whole | None:
        """Lays parameters behind each other; returns None where each stays alone."""
        if len(members) == 1 or not lie_together(members[0].device):
            return None
        for whole in self.laid:
            if whole.holds(members):
                return whole
        self.laid.append(Whole(members, stacked=stacked))
        Component.moved += 1
        return self.laid[-1]

    def tidy(self) -> None:
        """Forgets which parameters lay behind each other and no longer do, or are others now."""
        current, kept = set(self.parameters), []
        for whole in self.laid:
            if current.issuperset(whole.members) and whole.holds(whole.members):
                kept.append(whole)
            else:
                whole.spread()
        self.laid = kept

    def set_ranks(self, ranks: Sequence[int], optimizer: torch.optim.Optimizer | None) -> None:
        """Gives every layer its rank, and parameters for it."""
        pairs = list(zip(self.components, ranks, strict=True))
        moves = any(c.capacity_for(rank) != c.capacity for c, rank in pairs)
        if moves:
            self.spare = []  # which would keep the old parameters
        for component, rank in pairs:
            component.rank = rank
            component.allocate(rank, optimizer)
        if moves:
            self.tidy()

    def gradients(self) -> dict[Tensor, Tensor]:
        """Returns the gradient of each lora_up and lora_down that has one."""
        found: dict[Tensor, Tensor] = {p: p.grad for p in self.parameters if p.grad is not None}
        for whole in self.laid:
            for member, part in zip(whole.members, whole.gradients(), strict=False):
                found[member] = found[member] + part if member in found else part
        return found
