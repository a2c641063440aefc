"""Going on from a finished adapter: its layers become the first rank positions of a new run, whose
update is at first that of the adapter.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from ..adapter.lora import LoraLayer, RankedLora
from ..adapter.names import kohya_name
from ..ranks.settings import RankSettings
from ..units import BYTES_PER_PARAMETER, MEGABYTE
from .layer import Component

# share of a layer's largest energy (squared singular value) below which a position is only the
# rounding of fp32, whose singular values are exact to about 1e-6
NEGLIGIBLE = 1e-12
# lora_down that are made orthogonal together: 32 of 192 x 1280 are 31 MB
TOGETHER = 32


def allowed_parameters(
    parts: Mapping[str, Component], settings: RankSettings, own: Mapping[str, int]
) -> float:
    """Returns how many parameters the settings allow: the budget, or every layer at its target
    rank; at most what all layers can have together, since how far a step moves them follows from
    it. own: target ranks of layers that have one of their own.
    """
    most = sum(part.cost * part.max_rank for part in parts.values())
    if settings.budget_mb > 0:
        return float(min(settings.budget_mb * MEGABYTE / BYTES_PER_PARAMETER, most))
    rank = settings.target_rank
    more = sum(parts[name].cost * (r - rank) for name, r in own.items())
    return float(min(rank * sum(part.cost for part in parts.values()) + more, most))


def first_ranks(
    parts: Mapping[str, Component],
    settings: RankSettings,
    own: Mapping[str, int],
    given: Mapping[str, LoraLayer],
) -> dict[str, int]:
    """Returns the rank that every layer starts with, by name. own: as above. given: layers of a
    finished adapter to go on from, whose ranks are the least.
    """
    mean = float(settings.target_rank)
    if settings.rules.moves and not own:
        mean = allowed_parameters(parts, settings, own) / sum(p.cost for p in parts.values())
    ranks = {}
    for name, part in parts.items():
        rank = min(settings.first_rank(mean, own.get(name)), part.max_rank)
        ranks[name] = max(rank, given[name].rank) if name in given else rank
    return ranks


@torch.no_grad()
def orthogonalise(components: Sequence[Component], *, alike: bool) -> None:
    """Makes the used rows of each lora_down orthogonal, as Component.orthogonalise does. alike:
    those of one shape are computed together, some at a time: a GPU takes about as long for one.
    """
    groups: dict[tuple, list[Component]] = {}
    for number, component in enumerate(c for c in components if c.rank):
        key = (component.rank, component.fan_in) if alike else (number,)
        groups.setdefault(key, []).append(component)
    for group in groups.values():
        for first in range(0, len(group), TOGETHER):
            some = group[first : first + TOGETHER]
            if len(some) == 1:
                some[0].orthogonalise()
                continue
            rows = torch.stack([c.lora_down[: c.rank] for c in some])
            lengths = rows.norm(dim=(1, 2), keepdim=True) / math.sqrt(rows.shape[1])
            turned = torch.linalg.qr(rows.mT)[0].mT * lengths
            torch._foreach_copy_([c.lora_down[: c.rank] for c in some], list(turned.unbind()))


def starting_layers(start: RankedLora, components: Mapping[str, Component]) -> dict[str, LoraLayer]:
    """Returns the layers of the adapter that are trained here, each in its singular basis, by the
    name of the component; layers of rank 0 are left out. A component's layer has its name, or the
    name that a kohya file gives it.

    Raises ValueError when no layer is trained here, or one doesn't fit its component.
    """
    layers = {}
    for name, component in components.items():
        layer = start.layers.get(name, start.layers.get(kohya_name(name)))
        if layer is not None:
            check_fit(name, layer, component)
            layers[name] = without_rounding(layer.rotated()) if layer.rank else layer
    if not layers:
        raise ValueError(
            f"None of the {len(start.layers)} layers of the adapter to start from is trained here "
            f"(its first: {next(iter(start.layers), 'none')}; here: {next(iter(components))}): "
            "choose its layers in LoRA2 Target Options, or the adapter of this base model."
        )
    for name, layer in layers.items():
        most = components[name].max_rank
        if layer.rank > most:
            raise ValueError(
                f"Layer {name} of the adapter to start from has rank {layer.rank}, but at most "
                f"{most} is allowed here: raise max_rank, or make the adapter smaller with LoRA2 "
                "Compress first."
            )
    return {name: layer for name, layer in layers.items() if layer.rank}


def check_fit(name: str, layer: LoraLayer, component: Component) -> None:
    """Raises ValueError unless the layer's update has the shape of the component's weight."""
    shape = layer.up.shape[0], layer.down.shape[1]
    if shape != (component.fan_out, component.fan_in):
        raise ValueError(
            f"Layer {name} of the adapter to start from is for a weight of {shape[0]} x "
            f"{shape[1]}, but this model's is {component.fan_out} x {component.fan_in}: the "
            "adapter belongs to another base model."
        )


def without_rounding(layer: LoraLayer) -> LoraLayer:
    """Returns a layer in its singular basis without the last positions, which are only rounding."""
    energy = layer.energy
    return layer.first(int((energy > NEGLIGIBLE * energy.max()).sum()))


@torch.no_grad()
def fill(component: Component, layer: LoraLayer, weights: Tensor, *, orthogonal: bool) -> None:
    """Puts a layer's update, in its singular basis, into the first positions of an initialised
    component; the other positions add nothing to it yet.

    weights: the diagonal of the component's Lambda, (capacity,). lora_down gets the right singular
    vectors, with the root mean square of the norms of the component's rows, so that the learning
    rate means the same as in a new run. lora_up gets the rest. With `orthogonal`, the other rows of
    lora_down are made orthogonal to these and to each other.
    """
    down, up, rank = component.lora_down, component.lora_up, layer.rank
    length = down[: component.rank].double().norm(dim=1).square().mean().sqrt()
    given = layer.down.to(down.device).double()
    norms = given.norm(dim=1)
    rows = given / norms[:, None]
    down[:rank] = (rows * length).to(down.dtype)
    up[:, :rank] = (
        layer.up.to(up.device).double() * (norms / (length * weights[:rank].double()))
    ).to(up.dtype)
    up[:, rank:] = 0
    if orthogonal and rank < component.rank:
        rest = down[rank : component.rank].double()
        for _ in range(2):  # once is not enough for nearly parallel rows
            rest = rest - (rest @ rows.T) @ rows
        rest = torch.linalg.qr(rest.T)[0].T
        down[rank : component.rank] = (rest * length).to(down.dtype)


def fingerprint(lora: RankedLora) -> str:
    """Returns a hash of the names, shapes and values of all layers: 16 hex digits."""
    digest = hashlib.sha256()
    for name, layer in sorted(lora.layers.items()):
        shapes = [list(layer.up.shape), list(layer.down.shape), list(layer.kernel or ())]
        digest.update(json.dumps([name, *shapes]).encode())
        for tensor in (layer.up, layer.down):
            digest.update(tensor.detach().float().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()[:16]
