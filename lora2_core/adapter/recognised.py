"""Which kind of model a LoRA file is for, as the names and sizes of its layers show."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable
from dataclasses import dataclass

from .lora import RankedLora
from .model_order import of_text_encoder
from .other_kinds import size_of

Sizes = dict[str, tuple[int, int]]  # name with dots for underscores -> rows and columns
UNKNOWN = ""


@dataclass(frozen=True)
class Sign:
    """Says which model has such names.

    pattern: found in one name at least. lacks: found in none. side: pattern of a layer whose size
    tells models with the same names apart, and which of its sides. sizes: that size -> the model;
    for other sizes it is `model`.
    """

    model: str
    pattern: str
    lacks: str = r"\0"
    side: tuple[str, int] | None = None
    sizes: tuple[tuple[int, str], ...] = ()


ROWS, COLUMNS = 0, 1
_UNET = (
    r"(^|\.)(down|up)\.blocks\.\d+\.(attentions|resnets|downsamplers|upsamplers)\.|mid\.block\.att"
)
_SGM = r"(^|\.)(input|output)\.blocks\.\d+\.\d+\.|middle\.block\.\d+\."
_CROSS = (r"attn2\.(processor\.)?to\.[kv]$", COLUMNS)
_BY_CONTEXT = (
    (768, "Stable Diffusion 1.x"), (1024, "Stable Diffusion 2.x"), (2048, "Stable Diffusion XL"),
    (1280, "Stable Diffusion XL refiner"), (4096, "Kolors"),
)  # fmt: skip
# the first that fits
SIGNS = (
    Sign("a Stable Diffusion UNet", f"{_UNET}|{_SGM}", side=_CROSS, sizes=_BY_CONTEXT),
    Sign("HunyuanVideo",
         r"double\.blocks\.\d+\.(img|txt)\.mlp\.fc[12]|individual\.token\.refiner"),
    Sign("Flux", r"single\.blocks\.\d+\.linear[12]|double\.blocks\.\d+\.(img|txt)\.",
         side=(r"single\.blocks\.\d+\.linear2$|double\.blocks\.\d+\.img\.attn\.proj$", ROWS),
         sizes=((6144, "Flux 2"), (4096, "Flux 2 Klein"), (3072, "Flux"))),
    Sign("Flux 2", r"single\.transformer\.blocks\.\d+\.attn\.to\.(qkv\.mlp\.proj|out)$"),
    Sign("Flux", r"single\.transformer\.blocks\.\d+\."),
    Sign("Stable Diffusion 3", r"joint\.blocks\.\d+\."),
    Sign("Qwen-Image", r"transformer\.blocks\.\d+\.(img|txt)\.(mlp|mod)\b"),
    Sign("Krea 2", r"blocks\.\d+\.attn\.(wq|to\.gate)|text\.fusion"),
    Sign("Stable Diffusion 3", r"transformer\.blocks\.\d+\.(attn\.add\.[qkv]\.proj|ff\.context)"),
    Sign("HiDream", r"double\.stream\.blocks\.\d+"),
    Sign("AuraFlow", r"double\.layers\.\d+\."),
    Sign("Kandinsky 5", r"(visual|text)\.transformer\.blocks\.\d+"),
    Sign("Lumina 2", r"(^|\.)(layers|noise\.refiner|context\.refiner)\.\d+\."
         r"(attention|feed\.forward|adaLN)",
         side=(r"attention\.(to\.[qkv]|to\.out\.0|out)$|feed\.forward\.w2$", ROWS),
         sizes=((3840, "Z-Image"), (2304, "Lumina 2"))),
    Sign("Wan", r"(^|\.)blocks\.\d+\.(self|cross)\.attn\.(q|k|v|o|k\.img|v\.img)$",
         side=(r"(self|cross)\.attn\.[qkvo]$", ROWS),
         sizes=((1536, "Wan 1.3B"), (5120, "Wan 14B"), (3072, "Wan 2.2 5B"))),
    Sign("Wan", r"(^|\.)blocks\.\d+\.ffn\.[02]$"),
    Sign("Cosmos or Anima", r"(^|\.)blocks\.\d+\.(self|cross)\.attn\.(q\.proj|output\.proj)"),
    Sign("LTX", r"transformer\.blocks\.\d+\.(attn[12]\.to\.|ff\.net\.|audio\.)"),
)  # fmt: skip


def dotted(name: str) -> str:
    """Returns a name of any program with one dot for every dot and underscore."""
    return re.sub(r"[._]+", ".", name)


def sizes_of(lora: RankedLora) -> Sizes:
    """Returns rows and columns of each layer of the denoiser, (0, 0) where a change doesn't say
    them.
    """
    found: Sizes = {}
    for name, change in lora.others.items():
        found[name] = size_of(change.shapes) or (0, 0)
    for name, layer in lora.layers.items():
        found[name] = layer.up.shape[0], layer.down.shape[1] // math.prod(layer.kernel or ())
    return {dotted(name): size for name, size in found.items() if not of_text_encoder(name)}


def recognised(lora: RankedLora) -> str:
    """Returns the name of the model that an adapter's layers are those of, UNKNOWN where they don't
    show it.
    """
    inner = sizes_of(lora)
    for sign in SIGNS:
        if found_in(sign.pattern, inner) and not found_in(sign.lacks, inner):
            return by_size(sign, inner)
    return UNKNOWN


def found_in(pattern: str, names: Iterable[str]) -> bool:
    """Returns whether a pattern is found in one of the names."""
    compiled = re.compile(pattern)
    return any(compiled.search(name) for name in names)


def by_size(sign: Sign, sizes: Sizes) -> str:
    """Returns the model that a sign means, told from others by the size of one of its layers."""
    if sign.side is None:
        return sign.model
    pattern, side = re.compile(sign.side[0]), sign.side[1]
    found = {size[side] for name, size in sizes.items() if pattern.search(name)}
    return dict(sign.sizes).get(found.pop(), sign.model) if len(found) == 1 else sign.model
