"""The names of a model that isn't there, by the names in a LoRA file: for files that are changed
without their model.

The host's own tables say which names of other programs mean which rows of which weights. They need
the sizes of the model, which the file shows. Where a file's names fit several families, nothing is
guessed.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from types import SimpleNamespace

import comfy.model_base
import comfy.utils

from ..adapter.lora import RankedLora
from ..adapter.model_names import ModelNames
from ..adapter.model_order import of_text_encoder
from ..adapter.names import HOST_PREFIX
from .naming import model_names

# what names may begin with before the module path
_BEGINNING = re.compile(
    r"(model\.)?(diffusion_model\.|transformer\.|unet\.)?(base_model\.model\.)?"
    r"|lora_unet_|lora_transformer_|lycoris_"
)
Table = Callable[..., Mapping]


@dataclass(frozen=True)
class Family:
    """Describes a kind of model.

    kind: the host's class. sign: found in a name of every file that is surely of this family, with
    dots for underscores. table: the host's names of diffusers, none where diffusers has the same.
    counts: sizes of the table -> the numbered blocks that show them. width: name of the size that
    is the width of a block.
    """

    kind: type
    sign: str
    table: Table | None = None
    counts: Mapping[str, str] | None = None
    width: str = ""


base, utils = comfy.model_base, comfy.utils
FAMILIES = (
    Family(
        base.Flux, r"single\.transformer\.blocks\.\d+\.(attn\.to|proj\.mlp)|double\.blocks\.\d",
        utils.flux_to_diffusers,
        {
            "depth": r"(?<!single\.)transformer\.blocks|double\.blocks",
            "depth_single_blocks": r"single\.transformer\.blocks|single\.blocks",
        },
        "hidden_size",
    ),
    Family(
        base.Lumina2, r"(layers|refiner)\.\d+\.attention\.to\.",
        utils.z_image_to_diffusers, {"n_layers": r"(^|\.)layers"}, "dim",
    ),
    Family(
        base.Krea2, r"transformer\.blocks\.\d+\.(attn\.to\.gate|ff\.(gate|up|down))|text\.fusion",
        utils.krea2_to_diffusers, {"layers": r"transformer\.blocks"},
    ),
    Family(base.QwenImage, r"transformer\.blocks\.\d+\.(img|txt)\.(mlp|mod)"),
    Family(base.LTXV, r"^diffusion\.model\.transformer\.blocks\.\d+\.(attn[12]\.to|ff\.net)\."),
    Family(base.WAN21, r"(^|\.)blocks\.\d+\.(self\.attn|cross\.attn|ffn)\."),
)  # fmt: skip
# rows of such a layer are the width of a block, or three times as many
_WIDE = re.compile(r"(to\.[qkv]|add\.[qkv]\.proj|to\.out(\.0)?|to\.add\.out|attention\.out)$")
_FUSED = re.compile(r"(attn|attention)\.qkv$")
MOST_BLOCKS = 500  # of a model; more is no model's


def family_names(lora: RankedLora) -> ModelNames | None:
    """Returns the names of the model that an adapter from a file surely belongs to, None where the
    file doesn't show it.
    """
    names = [*lora.layers, *lora.others]
    plain = {name: re.sub(r"[._]+", ".", name) for name in names}
    fitting = [f for f in FAMILIES if any(re.search(f.sign, text) for text in plain.values())]
    if len(fitting) != 1:
        return None
    family = fitting[0]
    if family.table is None:
        inner = (name for name in names if "." in name and not of_text_encoder(name))
        paths = {_BEGINNING.sub("", name, count=1) for name in inner}
        targets: Iterable = (f"{HOST_PREFIX}{path}.weight" for path in paths)
        return names_of(family.kind, {}, targets)
    config = sizes(lora, family, plain)
    if config is None:
        return None
    return names_of(family.kind, config, family.table(config, output_prefix=HOST_PREFIX).values())


def sizes(lora: RankedLora, family: Family, plain: Mapping[str, str]) -> dict[str, int] | None:
    """Returns the sizes that the host's table needs, None where the file doesn't show them."""
    config: dict[str, int] = {}
    for size, blocks in (family.counts or {}).items():
        pattern = re.compile(rf"(?:{blocks})\.(\d{{1,4}})\.")
        numbers = [
            int(m.group(m.lastindex or 1)) for t in plain.values() for m in pattern.finditer(t)
        ]
        config[size] = max(numbers, default=-1) + 1
        if config[size] > MOST_BLOCKS:
            return None
    if family.width:
        rows = {len(y.up) for name, y in lora.layers.items() if _WIDE.search(plain[name])}
        rows |= {len(y.up) // 3 for name, y in lora.layers.items() if _FUSED.search(plain[name])}
        if len(rows) != 1:
            return None
        config[family.width] = rows.pop()
    return config


def names_of(kind: type, config: Mapping[str, int], targets: Iterable) -> ModelNames:
    """Returns the names of a model of the host's class with these sizes and weights."""
    rows: dict[str, int] = {}
    keys = set()
    for target in targets:
        key = target if isinstance(target, str) else target[0]
        keys.add(key)
        if not isinstance(target, str) and target[1] is not None:
            end = target[1][1] + target[1][2]
            rows[key] = max(rows.get(key, 0), end)
    stand_in = object.__new__(type("StandIn", (kind,), {"state_dict": lambda self: keys_of(keys)}))
    stand_in.model_config = SimpleNamespace(unet_config=dict(config))
    return model_names(SimpleNamespace(model=stand_in), rows=rows)


def keys_of(keys: set[str]) -> dict[str, None]:
    """Returns a state without values: the host asks for the names alone."""
    return dict.fromkeys(sorted(keys))
