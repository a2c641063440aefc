"""Ways to merge the updates of one layer that go beyond their sum: what each of them keeps.

TIES (arXiv 2306.01708) trims each update to its largest entries, elects a sign for every entry by
the sum of what is left, and takes the mean of the entries that agree with it. DARE (arXiv
2311.03099) drops random entries, and scales up the others so that the expected update stays.
"""

from __future__ import annotations

import math
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

SUM, TIES, DARE = "sum", "ties", "dare"
METHODS = (SUM, TIES, DARE)


@dataclass
class Shares:
    """Counts the entries of the updates that were merged. The shares are 0 where nothing was.

    entries: of all updates. kept: those that were neither trimmed nor dropped. agreeing: those of
    them that have the elected sign. places: of the weights, where at least one update has a kept
    entry. disputed: those of them where kept entries have both signs.
    """

    entries: int = 0
    kept: int = 0
    agreeing: int = 0
    places: int = 0
    disputed: int = 0

    @property
    def kept_share(self) -> float:
        return self.kept / max(1, self.entries)

    @property
    def agreeing_share(self) -> float:
        return self.agreeing / max(1, self.kept)

    @property
    def disputed_share(self) -> float:
        return self.disputed / max(1, self.places)


Merge = Callable[[Sequence[Tensor], float, int, str, Shares], Tensor]


def trimmed(update: Tensor, density: float) -> Tensor:
    """Returns an update with only the largest share `density` of its entries, by magnitude."""
    size = update.abs().flatten()
    drop = size.numel() - max(1, math.ceil(density * size.numel()))
    if drop <= 0:
        return update
    least = size.kthvalue(drop).values
    return torch.where(update.abs() > least, update, 0.0)


def ties(
    updates: Sequence[Tensor], density: float, seed: int, layer: str, shares: Shares
) -> Tensor:
    """Returns the disjoint mean of updates, each already times its weight; no chance is involved.

    density: share of the entries of each update that stays.
    """
    total = count = positive = negative = torch.zeros(())
    kept = [trimmed(update, density) for update in updates]
    sign = torch.sign(sum(kept, torch.zeros(())))
    for update in kept:
        agrees = (torch.sign(update) == sign) & (update != 0)
        total = total + torch.where(agrees, update, 0.0)
        count = count + agrees
        positive, negative = positive + (update > 0), negative + (update < 0)
        shares.entries += update.numel()
        shares.agreeing += int(agrees.sum())
    note(shares, positive, negative)
    return total / count.clamp(min=1)


def dare(
    updates: Sequence[Tensor], density: float, seed: int, layer: str, shares: Shares
) -> Tensor:
    """Returns the sum of updates, each already times its weight, of which only random entries are
    kept and scaled up by 1 / density.

    density: the chance of an entry to stay. seed, layer: give the entries; the same ones for the
    same layer, whatever else is merged.
    """
    total = positive = negative = torch.zeros(())
    for number, update in enumerate(updates):
        drawn = torch.Generator().manual_seed(
            (seed + zlib.crc32(f"{number} {layer}".encode())) % 2**63
        )
        stays = torch.rand(update.shape, generator=drawn) < density
        left = torch.where(stays, update, 0.0)
        positive, negative = positive + (left > 0), negative + (left < 0)
        shares.entries += update.numel()
        total = total + left / density
    note(shares, positive, negative)
    shares.agreeing = shares.kept
    return total


def note(shares: Shares, positive: Tensor, negative: Tensor) -> None:
    """Adds to the counts how many kept entries of each sign there are at every place."""
    shares.kept += int(positive.sum() + negative.sum())
    shares.places += int(((positive + negative) > 0).sum())
    shares.disputed += int(((positive > 0) & (negative > 0)).sum())


WAYS: dict[str, Merge] = {TIES: ties, DARE: dare}
