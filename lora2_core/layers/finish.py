"""Makes a finished adapter of trained layers."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from ..adapter.lora import LoraLayer, RankedLora
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
