"""Gives two adapters of one model the same layer names, so that they can be compared."""

from __future__ import annotations

from dataclasses import replace

from .lora import RankedLora
from .names import kohya_name


def aligned(lora: RankedLora, like: RankedLora) -> RankedLora:
    """Returns `lora` with the layer names of `like`. Two layers are the same where both would have
    the same name in a kohya file. A layer that `like` doesn't have keeps its name.
    """
    diffusers = like.origin.base.diffusers or lora.origin.base.diffusers
    known = {kohya_name(n, paths): n for paths in ({}, diffusers) for n in like.layers}
    names = {}
    for name in lora.layers:
        forms = (kohya_name(name, paths) for paths in ({}, diffusers))
        names[name] = next((known[form] for form in forms if form in known), name)
    if len(set(names.values())) < len(names):  # two layers would share a name: all keep theirs
        return lora
    return replace(lora, layers={names[n]: layer for n, layer in lora.layers.items()})
