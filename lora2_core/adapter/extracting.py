"""Makes an adapter of the difference between two models: each layer's is decomposed alone, and all
layers share one size or one error.

A layer's singular values come from a random projection (dense.py), whose error is measured exactly:
it is the norm of the difference less the norm of the pair. Only what can be in the result is kept
(gathering.py), so that models larger than memory can be read layer by layer.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor

from ..checks import check_range
from .dense import MOST_RANK, decomposed
from .gathering import Gathering, rank_with_room
from .lora import LoraLayer, RankedLora
from .other_kinds import OtherChange

ENOUGH = 0.5  # of the tolerance: what a layer may lack before the cut
Pair = Callable[[str], tuple[Tensor, Tensor]]


@dataclass(frozen=True)
class ExtractSettings:
    """Says how large the adapter may be, and how far from the difference; 0 for no limit. The
    budget goes before the tolerance. rest: take biases and norms as well.
    """

    budget_mb: float = 100.0
    tolerance: float = 0.0
    rest: bool = False

    def __post_init__(self) -> None:
        check_range("budget_mb", self.budget_mb, 0, 1e6)
        check_range("tolerance", self.tolerance, 0, 0.999)
        if self.budget_mb == 0 and self.tolerance == 0:
            raise ValueError(
                "budget_mb and tolerance are both 0: give a size in MB, a relative error such as "
                "0.3, or both."
            )


@dataclass
class Extracted:
    """Holds the adapter, its relative error |dW - dW'|_F / |dW|_F over all layers, how many layers
    were compared, are the same, or differ by rounding alone, and the error of every size in MB.
    """

    lora: RankedLora
    error: float = 0.0
    compared: int = 0
    same: int = 0
    rounded: int = 0
    curve: tuple[list[float], list[float]] = field(default_factory=lambda: ([], []))


def extract(
    shapes: Mapping[str, tuple[int, ...]],
    pair: Pair,
    settings: ExtractSettings,
    on_layer: Callable[[int, int], None] = lambda done, layers: None,
) -> Extracted:
    """Returns the adapter of the difference between two models.

    shapes: of every weight by the layer's name; biases are named after their layer, with `.bias`
    behind. pair: gives the tuned and the base weight of a name. on_layer: is called before each
    weight with how many are done, and how many there are; it may raise to stop.

    ValueError in one sentence where the models are the same, or a value is not finite.
    """
    names = [n for n, shape in shapes.items() if settings.rest or len(shape) > 1]
    gathered, out = Gathering(settings.budget_mb), Extracted(RankedLora({}))
    costs = sum(shape[0] + math.prod(shape[1:]) for shape in shapes.values() if len(shape) > 1)
    start = min(MOST_RANK, rank_with_room(settings.budget_mb, costs))
    for done, name in enumerate(names):
        on_layer(done, len(names))
        update = difference(name, *pair(name), out)
        if update is None:
            continue
        if update.ndim > 1:
            gathered.add(name, *cut(update, start, gathered, settings))
        else:
            layer = name.removesuffix(".bias")
            change = {".diff" if layer == name else ".diff_b": update.cpu()}
            before = gathered.others.get(layer, OtherChange({})).tensors
            gathered.others[layer] = OtherChange({**before, **change})
    if not gathered.layers and not gathered.others:
        raise ValueError(
            f"The {out.compared} layers of both models are the same, apart from rounding: there is "
            "nothing to extract."
        )
    out.lora, out.error = gathered.result(settings.tolerance)
    out.curve = gathered.curve()
    return out


def difference(name: str, tuned: Tensor, base: Tensor, out: Extracted) -> Tensor | None:
    """Returns tuned less base in fp32; None where both are the same, or differ only since one of
    them was stored with less precision. Counts which it was. ValueError in one sentence where their
    shapes differ or a value is not finite.
    """
    if tuned.shape != base.shape:
        first, second = (" x ".join(map(str, weight.shape)) for weight in (tuned, base))
        raise ValueError(
            f"Layer {name} is {first} in the tuned model and {second} in the base: take off the "
            "LoRA that changes its shape, or leave the layer out by layers."
        )
    out.compared += 1
    if tuned.dtype == base.dtype and torch.equal(tuned, base):
        out.same += 1
        return None
    update = tuned.float() - base.float()
    largest = float(update.abs().max()) if update.numel() else 0.0
    if not largest <= torch.finfo(torch.float32).max:
        raise ValueError(
            f"Layer {name} has values that are not finite numbers in one of the models."
        )
    if largest == 0:
        out.same += 1
        return None
    if is_rounding(update, tuned, base):
        out.rounded += 1
        return None
    return update


def is_rounding(update: Tensor, tuned: Tensor, base: Tensor) -> bool:
    """Returns whether two weights of different precision differ nowhere by more than one step of
    the coarser one.
    """
    kinds = [torch.finfo(t.dtype) for t in (tuned, base)]
    if kinds[0].eps == kinds[1].eps:
        return False
    coarse = max(kinds, key=lambda kind: kind.eps)
    size = torch.maximum(tuned.float().abs(), base.float().abs())
    least = max(kind.eps * kind.smallest_normal for kind in kinds)
    return bool((update.abs() <= coarse.eps * size + least).all())


def cut(
    update: Tensor, start: int, gathered: Gathering, settings: ExtractSettings
) -> tuple[LoraLayer, float]:
    """Returns the pair of a difference with all positions that may be in the result, and the energy
    that it lacks.

    start: the rank to try first. It doubles as long as the last position has more worth than the
    least one that there is room for.
    """
    most = start
    while True:
        layer, lost = decomposed(update, most, torch.float32)
        if layer.rank < most or most >= MOST_RANK:
            return layer, lost
        if settings.budget_mb and float(layer.energy[-1]) / layer.cost <= gathered.price:
            return layer, lost
        if settings.budget_mb and not gathered.price:  # there is still room: the start is enough
            return layer, lost
        whole = float(layer.energy.sum()) + lost
        if settings.tolerance and lost <= (ENOUGH * settings.tolerance) ** 2 * whole:
            return layer, lost
        most = min(MOST_RANK, 2 * most)
