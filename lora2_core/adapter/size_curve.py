"""Size, mean rank and energy of an adapter for every setting of `keep`."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from ..units import BYTES_PER_PARAMETER, MEGABYTE
from .allocation import ranking
from .lora import RankedLora

STEPS = 100  # keep = 0.01, 0.02, ..., 1: as fine as the slider


@dataclass(frozen=True)
class SizeCurve:
    """Lists of STEPS numbers, for keep = 1/STEPS, 2/STEPS, ..., 1.

    mb: size in fp16. mean_rank: as that of RankedLora. energy: the share of the squared norm that
    stays.
    """

    mb: list[float]
    mean_rank: list[float]
    energy: list[float]


def size_curve(lora: RankedLora) -> SizeCurve:
    """Returns the curve of an adapter, as `truncated` would cut it for every keep.

    Expects the singular basis.
    """
    energies = lora.energies()
    costs = [layer.cost for layer in lora.layers.values()]
    order, _, cost = ranking(lora.worths(energies), costs)
    cut = torch.arange(1, STEPS + 1, dtype=torch.float64) / STEPS * lora.parameters
    sizes = cost[order].cumsum(0)
    kept = torch.searchsorted(sizes, cut, right=True)  # positions
    energy = torch.cat([cost.new_zeros(0), *energies])[order].cumsum(0)
    total = float(energy[-1]) if len(energy) else 0.0

    def at(totals: torch.Tensor, of: float, digits: int) -> list[float]:
        totals = torch.cat([totals.new_zeros(1), totals])
        return [round(float(v) / of, digits) if of else 1.0 for v in totals[kept]]

    uncut = lora.other_bytes / MEGABYTE
    return SizeCurve(
        [round(mb + uncut, 4) for mb in at(sizes, MEGABYTE / BYTES_PER_PARAMETER, 4)],
        at(sizes, float(max(1, sum(costs))), 3),
        at(energy, total, 5),
    )
