"""Makes a finished adapter of trained layers, and writes its file."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from ..adapter.lora import LoraLayer, RankedLora
from ..adapter.origin import Learned, Origin
from ..files import saving
from .adapters import Adapters


def finish(adapters: Adapters, info: Mapping | None = None) -> RankedLora:
    """Returns the learned update of attached adapters in its singular basis; in adaptive mode
    within the settings' ceiling and without positions that nothing has trained.

    info: what is known of the run, by the keys that Origin.from_info reads.
    """
    layers = {
        name: LoraLayer.from_tensors(up.cpu(), down.cpu())
        for name, (up, down) in adapters.folded().items()
    }
    lora = RankedLora(layers).rotated()
    origin = replace(Origin.from_info(info or {}), learned=learned_of(adapters, lora))
    lora = replace(lora, origin=origin)
    if not adapters.mode.competes:
        return lora
    used = {name: layer.unpadded() for name, layer in lora.layers.items()}
    return replace(lora, layers=used).within(adapters.ceiling)


def learned_of(adapters: Adapters, lora: RankedLora) -> Learned:
    """Returns what the training learned of each layer; `lora`: the adapters' update."""
    nu = {}
    if adapters.mode.moves:
        nu = dict(zip(adapters.components, adapters.rates.tolist(), strict=True))
    return Learned(adapters.ranks, nu, sensitivity(adapters, lora) if adapters.worths else {})


def sensitivity(adapters: Adapters, lora: RankedLora) -> dict[str, float]:
    """Returns worth / energy of each layer, divided by the highest: how much the loss depends on
    the same energy in different layers.
    """
    energies = {name: float(layer.energy.sum()) for name, layer in lora.layers.items()}
    values = {n: w / energies[n] if energies[n] > 0 else 0.0 for n, w in adapters.worths.items()}
    highest = max(values.values()) or 1.0
    return {name: value / highest for name, value in values.items()}


def save(
    path: str | Path, source: Adapters | RankedLora, *, info: Mapping | None = None, **options: Any
) -> RankedLora:
    """Writes the file of attached adapters or of a finished one, atomically, and returns the
    adapter that was written.

    info: as for `finish`; for attached adapters only. options: form, dtype, max_mb and diffusers of
    files.saving.save, whose errors it raises.
    """
    lora = finish(source, info) if isinstance(source, Adapters) else source
    return saving.save(path, lora, **options)
