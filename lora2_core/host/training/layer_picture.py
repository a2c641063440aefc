"""The picture of what a training would choose in a model, with the layers that are known to be
idle.
"""

from __future__ import annotations

from collections.abc import Collection

import torch
from torch import Tensor, nn

from ...charts.finding import Found, draw_finding
from ...layers.structure import KINDS, OUTSIDE
from ...layers.targets import places
from .idle import idle


def layer_picture(inner: nn.Module, chosen: Collection[str]) -> Tensor:
    """Returns the picture of a host's model as an IMAGE [1, height, width, 3] in [0, 1]. Layers
    outside of blocks are in it only where they are chosen.
    """
    known, kept = idle(inner), set(chosen)
    layers = {
        name: Found(place.kind, name in kept, name in known)
        for name, place in places(inner).items()
        if place.kind != OUTSIDE or name in kept
    }
    return torch.from_numpy(draw_finding(layers, KINDS))[None].float() / 255


def idle_line(inner: nn.Module, chosen: Collection[str]) -> str:
    """Returns a line on the chosen layers that learned nothing in an earlier run, "" without
    any.
    """
    found = [name for name in chosen if name in idle(inner)]
    if not found:
        return ""
    return f"\nidle, they learned nothing in an earlier run: {len(found)}, first {found[0]}"
