"""Compresses any LoRA to a wanted size or error, with one allocation of ranks over all layers.

Every layer is rotated into its singular basis through its rank x rank core; the dense update is
never formed. In that basis |dW|_F^2 of all layers together is the sum of s^2 over all positions, so
the error of a cut is the energy of the positions that it removes (Eckart-Young). All positions of
all layers are sorted by falling s^2 / cost, where cost = out + fan_in parameters. Each prefix of
that order is the best allocation of its size: it is the optimum of the fractional knapsack, and
divides no position. Where layers matter differently, s^2 is times the importance of its layer.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import torch
from torch import Tensor

from ..checks import check_range
from ..units import BYTES_PER_PARAMETER, MEGABYTE
from .allocation import ranking
from .dense import Dense, as_pairs, nothing
from .lora import RankedLora

# relative error that is always allowed: about the rounding of fp32, far below that of fp16, 5e-4
LOSSLESS = 1e-6


def compress(
    lora: RankedLora,
    *,
    budget_mb: float = 0.0,
    tolerance: float = 0.1,
    dense: Dense = nothing,
    importance: Mapping[str, float] | None = None,
) -> RankedLora:
    """Returns the smallest adapter within the tolerance, cut further to the budget where one is
    given.

    budget_mb: size limit in MB (1e6 bytes, 2 bytes a parameter), 0 for none.
    tolerance: allowed |dW - dW'|_F / |dW|_F of all layers together, in [0, 1); 0 for none.
    dense: gives the update of a layer whose kind of change depends on the base model's weights.
    importance: of the energy of each layer, 1 where it is not named. It decides which positions go
    first; the error stays that of the update.

    Changes that are no pairs become some, as far as they can. With both limits, the smaller result
    counts. origin.run.settings["compressed"] holds both, and the error that came out. ValueError
    when both are 0, when the LoRA is all zeros or can't be cut, or when the budget has no room for
    one position.
    """
    check_range("budget_mb", budget_mb, 0, 1e6)
    check_range("tolerance", tolerance, 0, 0.999)
    if budget_mb == 0 and tolerance == 0:
        raise ValueError(
            "budget_mb and tolerance are both 0: give a size in MB, a relative error such as 0.1, "
            "or both."
        )
    pairs = as_pairs(lora, dense)
    full, beyond = by_importance(pairs.lora.rotated(), importance or {}), pairs.beyond
    if not full.layers:
        kinds = ", ".join(sorted({change.kind for change in full.others.values()}))
        raise ValueError(
            f"The LoRA's {len(full.others)} changes ({kinds}) can't be cut without the base model, "
            "or at all: connect model, or choose another file."
        )
    if not any(layer.energy.any() for layer in full.layers.values()):
        raise ValueError(
            f"The LoRA's {len(full.layers)} layers are all zero, so there is nothing to compress: "
            "choose another file."
        )
    parameters: float = parameters_for(full, max(tolerance, LOSSLESS), beyond)
    if budget_mb > 0:
        room = (budget_mb * MEGABYTE - full.other_bytes) / BYTES_PER_PARAMETER
        parameters = min(parameters, room)
    cut = full.within(parameters)
    if cut.parameters == 0:
        raise ValueError(f"budget_mb is {budget_mb:g}, too small for one rank: give more MB.")
    facts = {
        "budget_mb": budget_mb,
        "tolerance": tolerance,
        "error": relative_error(full, cut, beyond),
    }
    run = replace(lora.origin.run, settings=dict(lora.origin.run.settings) | {"compressed": facts})
    cut = replace(cut, origin=replace(cut.origin, run=run))
    return cut if importance == lora.origin.learned.sensitivity else by_importance(cut, {})


def by_importance(lora: RankedLora, importance: Mapping[str, float]) -> RankedLora:
    """Returns the adapter with these sensitivities, by which cuts go; without, by energy alone."""
    learned = replace(lora.origin.learned, sensitivity=importance)
    return replace(lora, origin=replace(lora.origin, learned=learned))


def relative_error(full: RankedLora, cut: RankedLora, beyond: float = 0.0) -> float:
    """Returns |dW - dW'|_F / |dW|_F over all layers that can be cut.

    full: the adapter before the cut, in its singular basis. cut: the same adapter with the first
    positions of each layer. beyond: energy that even the first one lacks. What the cut removed is
    summed up, so small errors keep their digits.
    """
    energies = {name: layer.energy for name, layer in full.layers.items()}
    total = sum(float(energy.sum()) for energy in energies.values())
    lost = sum(float(energy[cut.layers[name].rank :].sum()) for name, energy in energies.items())
    return ((lost + beyond) / (total + beyond)) ** 0.5


def error_curve(lora: RankedLora, beyond: float = 0.0) -> tuple[Tensor, Tensor]:
    """Returns (parameters int64, relative error fp64), both (positions + 1,): the size and the
    error of every cut, from no position to all of them.

    Expects the singular basis.
    """
    energies = [layer.energy.cpu() for layer in lora.layers.values()]
    order, _, cost = ranking(lora.worths(energies), [y.cost for y in lora.layers.values()])
    energy = torch.cat(energies)
    lost = energy[order].flip(0).cumsum(0).flip(0)
    parameters = torch.cat([cost.new_zeros(1), cost[order].cumsum(0)]).long()
    lost = torch.cat([lost, lost.new_zeros(1)]) + beyond
    return parameters, (lost / (energy.sum() + beyond)).sqrt()


def parameters_for(lora: RankedLora, tolerance: float, beyond: float = 0.0) -> int:
    """Returns the fewest parameters with which the relative error is at most `tolerance`; all of
    them where even they have more.
    """
    parameters, error = error_curve(lora, beyond)
    enough = (error <= tolerance).nonzero()
    return int(parameters[enough[0, 0] if len(enough) else -1])
