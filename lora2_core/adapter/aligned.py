"""Two adapters of one model under the same names, whatever names their files have."""

from __future__ import annotations

from dataclasses import replace

from .lora import RankedLora
from .names import kohya_name


def aligned(lora: RankedLora, like: RankedLora) -> RankedLora:
    """Returns `lora` with its layers named as those of `like` that have the same name in a file;
    layers that `like` has not keep theirs.
    """
    diffusers = like.origin.base.diffusers or lora.origin.base.diffusers
    known = {kohya_name(n, paths): n for paths in ({}, diffusers) for n in like.layers}
    names = {}
    for name in lora.layers:
        forms = (kohya_name(name, paths) for paths in ({}, diffusers))
        names[name] = next((known[form] for form in forms if form in known), name)
    if len(set(names.values())) < len(names):  # two layers of one name: they are what they are
        return lora
    return replace(lora, layers={names[n]: layer for n, layer in lora.layers.items()})
