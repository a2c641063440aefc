"""Collects the layers of an adapter that is made one layer at a time, and cuts it to a size or to
an error, without ever holding much more than what the result can keep.

Positions are sorted by worth per parameter, as in compress.py. A position that has no room beside
the layers so far has none beside all of them: more layers only raise the price of the last place.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace

from ..units import BYTES_PER_PARAMETER, MEGABYTE
from .allocation import descending
from .compress import LOSSLESS, error_curve, parameters_for
from .lora import LoraLayer, RankedLora
from .other_kinds import OtherChange

SPARE = 4  # times the mean rank that the budget allows: what a layer may have before the cut
LEAST_RANK = 48  # of a dense layer before the cut
CROWDED = 1.5  # of what the result may hold: then positions without room go


def rank_with_room(budget_mb: float, cost: int) -> int:
    """Returns the rank that a dense layer may have before the cut to a budget. cost: parameters of
    one rank in every layer.
    """
    mean = budget_mb * MEGABYTE / BYTES_PER_PARAMETER / max(1, cost)
    return max(LEAST_RANK, round(SPARE * mean))


@dataclass
class Gathering:
    """Holds the layers so far, each in its singular basis.

    budget_mb: size of the result in MB (fp16) at most, 0 for no limit. energy: |dW|_F^2 of all
    layers, what was left out of them counted. price: worth per parameter below which a position has
    no room any more.
    """

    budget_mb: float = 0.0
    layers: dict[str, LoraLayer] = field(default_factory=dict)
    others: dict[str, OtherChange] = field(default_factory=dict)
    energy: float = 0.0
    price: float = 0.0

    @property
    def room(self) -> float:
        """Returns the parameters that the pairs of the result may have."""
        if self.budget_mb <= 0:
            return math.inf
        rest = sum(change.bytes for change in self.others.values())
        return (self.budget_mb * MEGABYTE - rest) / BYTES_PER_PARAMETER

    def add(self, name: str, layer: LoraLayer, lost: float = 0.0) -> None:
        """Adds a layer in its singular basis. lost: energy of its update that the layer lacks."""
        self.energy += float(layer.energy.sum()) + max(0.0, lost)
        worth = descending(layer.energy.cpu()) / layer.cost
        self.layers[name] = layer.first(int((worth >= self.price).sum()))
        if sum(y.rank * y.cost for y in self.layers.values()) > CROWDED * self.room:
            self.prune()

    def prune(self) -> None:
        """Removes the positions that have no room in the result."""
        kept = RankedLora(self.layers, singular=True).within(max(0.0, self.room))
        gone = [
            float(descending(old.energy.cpu())[layer.rank]) / layer.cost
            for old, layer in zip(self.layers.values(), kept.layers.values(), strict=True)
            if layer.rank < old.rank
        ]
        self.price = max([self.price, *gone])
        self.layers = dict(kept.layers)

    def result(self, tolerance: float = 0.0) -> tuple[RankedLora, float]:
        """Returns the adapter and its relative error |dW - dW'|_F / |dW|_F.

        tolerance: allowed error, 0 for none; the budget goes before it. ValueError when nothing is
        left.
        """
        lora = RankedLora(self.layers, singular=True, others=self.others)
        if not self.energy > 0:
            if not self.others:
                raise ValueError(
                    f"The update of all {len(self.layers)} layers is zero: choose other files, or "
                    "other weights."
                )
            return replace(lora, layers={}), 0.0
        beyond = self.beyond
        fewest = parameters_for(lora, max(tolerance, LOSSLESS), beyond)
        cut = lora.within(min(fewest, self.room))
        if cut.parameters == 0 and not self.others:
            raise ValueError(
                f"budget_mb is {self.budget_mb:g}, too small for one rank: give more MB."
            )
        return cut, math.sqrt(self.missing(cut) / self.energy)

    @property
    def beyond(self) -> float:
        """Returns the energy that even the layers as they are lack."""
        return max(0.0, self.energy - sum(float(y.energy.sum()) for y in self.layers.values()))

    def missing(self, cut: RankedLora) -> float:
        """Returns the energy that a cut of these layers lacks. What is removed is summed up, so
        that small errors keep their digits.
        """
        removed = sum(float(y.energy[cut.layers[n].rank :].sum()) for n, y in self.layers.items())
        beyond = self.beyond
        return removed + (beyond if beyond > 1e-14 * self.energy else 0.0)

    def curve(self) -> tuple[list[float], list[float]]:
        """Returns sizes in MB and the relative error of each cut, from nothing to all; one of no
        size where no layer can be cut.
        """
        if not self.layers:
            return [0.0], [0.0]
        parameters, error = error_curve(RankedLora(self.layers, singular=True), self.beyond)
        megabytes = parameters.double() * BYTES_PER_PARAMETER / MEGABYTE
        return megabytes.tolist(), error.tolist()
