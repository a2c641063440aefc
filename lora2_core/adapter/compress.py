"""Any LoRA as an adaptive-rank one: of a wanted size or a wanted error, one allocation over all
layers.

Every layer goes into its singular basis through its rank x rank core; the dense update is never
formed. There the whole update has |dW|_F^2 = sum of s^2 over layers and positions, so a cut's error
is the energy of the positions that go (Eckart-Young). One order serves all layers: s^2 / cost
falling, cost = out + fan_in parameters of a position. Each prefix of that order is the best
allocation of its size, being the optimum of the fractional knapsack with nothing left to divide.
"""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from ..checks import check_range
from ..units import BYTES_PER_PARAMETER, MEGABYTE
from .allocation import ranking
from .lora import RankedLora

LOSSLESS = 1e-6  # relative error that is always allowed: fp32 rounding, far below that of fp16


def compress(lora: RankedLora, *, budget_mb: float = 0.0, tolerance: float = 0.1) -> RankedLora:
    """Returns the smallest adapter within the tolerance, cut further to the budget where one is
    given.

    budget_mb: size limit in MB (1e6 bytes, 2 bytes a parameter), 0 for none. tolerance: allowed
    |dW - dW'|_F / |dW|_F of the whole update, all layers together, in [0, 1); 0 for none. Of both,
    the one that asks for less decides. origin.run.settings["compressed"] says what was asked and
    the error that came out. ValueError when neither is given, when the LoRA is all zeros, or when
    the budget holds no position.
    """
    check_range("budget_mb", budget_mb, 0, 1e6)
    check_range("tolerance", tolerance, 0, 0.999)
    if budget_mb == 0 and tolerance == 0:
        raise ValueError(
            "budget_mb and tolerance are both 0: give a size in MB, a relative error such as 0.1, "
            "or both."
        )
    whole = without_sensitivity(lora.rotated())
    if not any(layer.energy.any() for layer in whole.layers.values()):
        raise ValueError(
            f"The LoRA's {len(whole.layers)} layers are all zero, so there is nothing to compress: "
            "choose another file."
        )
    parameters: float = parameters_for(whole, max(tolerance, LOSSLESS))
    if budget_mb > 0:
        parameters = min(parameters, budget_mb * MEGABYTE / BYTES_PER_PARAMETER)
    cut = whole.within(parameters)
    if cut.parameters == 0:
        raise ValueError(f"budget_mb is {budget_mb:g}, too small for one rank: give more MB.")
    said = {"budget_mb": budget_mb, "tolerance": tolerance, "error": relative_error(whole, cut)}
    run = replace(lora.origin.run, settings=dict(lora.origin.run.settings) | {"compressed": said})
    return replace(cut, origin=replace(cut.origin, run=run))


def without_sensitivity(lora: RankedLora) -> RankedLora:
    """Returns the adapter without sensitivities: an error in the update itself is asked for, so
    energy alone decides.
    """
    learned = replace(lora.origin.learned, sensitivity={})
    return replace(lora, origin=replace(lora.origin, learned=learned))


def relative_error(whole: RankedLora, cut: RankedLora) -> float:
    """Returns |dW - dW'|_F / |dW|_F over all layers, of a cut that keeps the first positions of
    each layer.

    `whole` is in its singular basis. A sum of what went, so small errors keep their digits.
    """
    energies = {name: layer.energy for name, layer in whole.layers.items()}
    total = sum(float(energy.sum()) for energy in energies.values())
    lost = sum(float(energy[cut.layers[name].rank :].sum()) for name, energy in energies.items())
    return (lost / total) ** 0.5


def error_curve(lora: RankedLora) -> tuple[Tensor, Tensor]:
    """Returns (parameters int64, relative error fp64), both (positions + 1,): what `within` keeps,
    position by position, from nothing to everything.

    Expects the singular basis.
    """
    energies = [layer.energy.cpu() for layer in lora.layers.values()]
    order, _, cost = ranking(energies, [layer.cost for layer in lora.layers.values()])
    energy = torch.cat(energies)
    lost = energy[order].flip(0).cumsum(0).flip(0)
    parameters = torch.cat([cost.new_zeros(1), cost[order].cumsum(0)]).long()
    return parameters, (torch.cat([lost, lost.new_zeros(1)]) / energy.sum()).sqrt()


def parameters_for(lora: RankedLora, tolerance: float) -> int:
    """Returns the fewest parameters along the error curve whose relative error is at most
    `tolerance`.
    """
    parameters, error = error_curve(lora)
    return int(parameters[(error <= tolerance).nonzero()[0, 0]])
