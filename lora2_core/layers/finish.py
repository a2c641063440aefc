"""Makes a finished adapter of trained layers, and a file of it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from ..adapter.lora import LoraLayer, RankedLora
from ..files import saving
from .adapters import Adapters


def finish(adapters: Adapters, info: Mapping | None = None) -> RankedLora:
    """The learned update of attached adapters in its singular basis; in adaptive mode within the
    settings' ceiling and without positions that nothing has trained.
    """
    layers = {
        n: LoraLayer.from_tensors(up.cpu(), down.cpu())
        for n, (up, down) in adapters.folded().items()
    }
    facts = {"learned_ranks": adapters.ranks, "quantile": adapters.settings.quantile}
    if adapters.mode.moves:
        facts["rates"] = dict(zip(adapters.components, adapters.rates.tolist(), strict=True))
    lora = RankedLora(layers, facts | dict(info or {})).rotated()
    if adapters.worths:
        lora = replace(lora, info=dict(lora.info) | {"sensitivity": sensitivity(adapters, lora)})
    if not adapters.mode.competes:
        return lora
    used = {name: layer.unpadded() for name, layer in lora.layers.items()}
    return replace(lora, layers=used).within(adapters.ceiling)


def sensitivity(adapters: Adapters, lora: RankedLora) -> dict[str, float]:
    """What the loss makes of a layer's energy: worth / energy of each layer, the highest 1."""
    energies = {name: float(layer.energy.sum()) for name, layer in lora.layers.items()}
    found = {n: w / energies[n] if energies[n] > 0 else 0.0 for n, w in adapters.worths.items()}
    most = max(found.values()) or 1.0
    return {name: value / most for name, value in found.items()}


def save(
    path: str | Path, source: Adapters | RankedLora, *, info: Mapping | None = None, **options: Any
) -> RankedLora:
    """Writes the file of attached adapters or of a finished one, atomically; returns what was
    written.

    info: what the file shall say of the run, for attached adapters. options: form, dtype, max_mb
    and diffusers of files.saving.save, whose errors it raises.
    """
    lora = finish(source, info) if isinstance(source, Adapters) else source
    return saving.save(path, lora, **options)
