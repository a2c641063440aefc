"""The names of the layers of Stable Diffusion's UNets, for files that are read without their model.

Files call one layer `input_blocks.4.1`, `down_blocks_1_attentions_0`, and more. The host's table of
these names needs the shape of the UNet, which is one of a few.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from types import SimpleNamespace

import comfy.model_base
import comfy.utils

from ..adapter.lora import RankedLora
from ..adapter.model_names import ModelNames
from ..adapter.names import HOST_PREFIX
from .families import names_of
from .naming import diffusers_paths


@dataclass(frozen=True)
class Unet:
    """Describes a UNet. config: what the host's table of names needs. context: columns of what its
    cross-attention reads.
    """

    kind: type
    config: Mapping[str, object]
    context: int


@dataclass(frozen=True)
class UnetNames:
    """Holds all names of a UNet's layers, and module path -> diffusers' path."""

    names: ModelNames
    diffusers: Mapping[str, str]


WIDTHS = {320, 640, 1280}  # rows of the attention of all of them
_SD = {
    "num_res_blocks": [2, 2, 2, 2], "channel_mult": [1, 2, 4, 4], "transformer_depth_middle": 1,
    "transformer_depth": [1, 1, 1, 1, 1, 1, 0, 0],
    "transformer_depth_output": [1, 1, 1, 1, 1, 1, 1, 1, 1, 0, 0, 0],
}  # fmt: skip
_SDXL = {
    "num_res_blocks": [2, 2, 2], "channel_mult": [1, 2, 4], "transformer_depth_middle": 10,
    "transformer_depth": [0, 0, 2, 2, 10, 10],
    "transformer_depth_output": [0, 0, 0, 2, 2, 2, 10, 10, 10],
}  # fmt: skip
UNETS = (
    Unet(comfy.model_base.SDXL, _SDXL, 2048),
    Unet(comfy.model_base.BaseModel, _SD, 768),
    Unet(comfy.model_base.BaseModel, _SD, 1024),
)
_INNER = re.compile(r"(down|up|input|output)[._]blocks[._]\d|mid(dle)?[._]block[._]")
_READS = re.compile(r"attn2[._](processor[._])?to[._][kv]$")
_WIDE = re.compile(r"attn\d[._](processor[._])?to[._]q$")


def unet_names(loras: Iterable[RankedLora]) -> UnetNames | None:
    """Returns the names of the UNet that adapters from files surely belong to; None where they
    don't show it.
    """
    layers = {n: y for lora in loras for n, y in lora.layers.items() if _INNER.search(n)}
    context = {y.down.shape[1] for n, y in layers.items() if _READS.search(n)}
    wide = {len(y.up) for n, y in layers.items() if _WIDE.search(n)}
    if not context | wide or not wide <= WIDTHS:
        return None
    for unet in UNETS:
        if context <= {unet.context}:
            found = names_in(unet)
            if all(name in found.names.targets for name in layers):
                return found
    return None


def names_in(unet: Unet) -> UnetNames:
    """Returns the names of a UNet's layers."""
    table = comfy.utils.unet_to_diffusers(unet.config)
    targets = [HOST_PREFIX + path for path in table.values()]
    config = SimpleNamespace(model_config=SimpleNamespace(unet_config=unet.config))
    paths = diffusers_paths(SimpleNamespace(model=config))
    return UnetNames(names_of(unet.kind, unet.config, targets), paths)
