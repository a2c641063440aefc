"""The usual ways to make a LoRA smaller, layer by layer, for comparison.

All take an adapter in its singular basis and keep the first positions of every layer; all but one
threshold for all layers keep at least one.
sv_fro and sv_ratio mean what kohya's resize_lora means by these names.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace

import torch

from lora2_core import RankedLora

HALVINGS = 60
Ranks = dict[str, int]


def cut(lora: RankedLora, ranks: Mapping[str, int]) -> RankedLora:
    """The first positions of each layer."""
    return replace(lora, layers={n: x.first(ranks[n]) for n, x in lora.layers.items()})


def sv_fro(lora: RankedLora, share: float) -> RankedLora:
    """Per layer the fewest singular values with sqrt(sum of kept s^2) / |s|_2 >= share."""
    return cut(lora, sv_fro_ranks(lora, share))


def sv_ratio(lora: RankedLora, ratio: float) -> RankedLora:
    """Per layer the singular values s >= s_max / ratio."""
    return cut(lora, sv_ratio_ranks(lora, ratio))


def uniform(lora: RankedLora, rank: int) -> RankedLora:
    """Every layer at the same rank, as far as it has it."""
    return cut(lora, uniform_ranks(lora, rank))


def sv_fro_ranks(lora: RankedLora, share: float) -> Ranks:
    def rank(energy: torch.Tensor) -> int:
        kept = (energy.cumsum(0) / energy.sum()).sqrt()
        return min(int((kept < share).sum()) + 1, len(energy))

    return {name: rank(layer.energy) for name, layer in lora.layers.items()}


def sv_ratio_ranks(lora: RankedLora, ratio: float) -> Ranks:
    def rank(values: torch.Tensor) -> int:
        return max(1, int((values >= values.max() / ratio).sum()))

    return {name: rank(layer.energy.sqrt()) for name, layer in lora.layers.items()}


def uniform_ranks(lora: RankedLora, rank: int) -> Ranks:
    return {name: min(rank, layer.rank) for name, layer in lora.layers.items()}


def threshold_ranks(lora: RankedLora, least: float) -> Ranks:
    """Of each layer how many singular values are at least `least`, one for all layers; may be 0."""
    return {n: int((x.energy.sqrt() >= least).sum()) for n, x in lora.layers.items()}


def parameters_of(lora: RankedLora, ranks: Mapping[str, int]) -> int:
    """What a cut to these ranks would have."""
    return sum(layer.cost * ranks[name] for name, layer in lora.layers.items())


def largest(
    lora: RankedLora, ranks_at: Callable[[float], Ranks], low: float, high: float, parameters: float
) -> RankedLora:
    """The largest cut not above `parameters`, by bisection of a rule whose ranks grow with its
    argument; ValueError when even `low` gives more.
    """
    if parameters_of(lora, ranks_at(high)) <= parameters:
        return cut(lora, ranks_at(high))
    if (least := parameters_of(lora, ranks_at(low))) > parameters:
        raise ValueError(f"{parameters:g} parameters are too few: this rule needs {least}.")
    for _ in range(HALVINGS):
        middle = (low + high) / 2
        if parameters_of(lora, ranks_at(middle)) <= parameters:
            low = middle
        else:
            high = middle
    return cut(lora, ranks_at(low))


def largest_sv_fro(lora: RankedLora, parameters: float) -> RankedLora:
    return largest(lora, lambda share: sv_fro_ranks(lora, share), 0.0, 1.0, parameters)


def largest_sv_ratio(lora: RankedLora, parameters: float) -> RankedLora:
    """Bisects the logarithm of the ratio, from 1 to 1e12."""
    return largest(lora, lambda log: sv_ratio_ranks(lora, 10**log), 0.0, 12.0, parameters)


def largest_uniform(lora: RankedLora, parameters: float) -> RankedLora:
    most = max(lora.ranks.values())
    return largest(lora, lambda rank: uniform_ranks(lora, int(rank)), 1, most, parameters)


def largest_threshold(lora: RankedLora, parameters: float) -> RankedLora:
    """One threshold of singular values for all layers (PARA); bisects its logarithm, from 1e6 to
    1e-12. A layer may end at rank 0.
    """
    return largest(lora, lambda log: threshold_ranks(lora, 10**-log), -6.0, 12.0, parameters)
