"""The entry `lora_adapter_metadata`, in which diffusers and PEFT keep the ranks and alphas of a
file.

It is JSON: `unet.r`, `unet.lora_alpha`, `unet.rank_pattern`, … for each part of the model.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping

from torch import Tensor

from ..adapter.lora import RankedLora

KEY = "lora_adapter_metadata"
LARGEST = 1e6  # rank or alpha: far above any that is used


def peft_metadata(lora: RankedLora, bases: Mapping[str, str]) -> str:
    """Returns the value of the entry: the rank of every layer as an anchored pattern, and the same
    alpha, so that the scale is 1.

    bases: layer -> its name in the file.
    """
    parts: dict[str, dict[str, int]] = {}
    for name, rank in lora.ranks.items():
        if rank and name in bases:
            part, path = bases[name].split(".", 1)
            parts.setdefault(part, {})[path] = rank
    entries: dict[str, object] = {}
    for part, ranks in parts.items():
        common, patterns = max(ranks.values()), {f"^{path}$": r for path, r in ranks.items()}
        config = {
            "r": common, "lora_alpha": common, "rank_pattern": patterns,
            "alpha_pattern": patterns, "target_modules": list(ranks),
        }  # fmt: skip
        entries |= {f"{part}.{k}": v for k, v in config.items()}
    return json.dumps(entries)


def scales_in(
    metadata: Mapping[str, str],
    pairs: Mapping[str, Mapping[str, str]],
    tensors: Mapping[str, Tensor],
) -> dict[str, float]:
    """Returns alpha / rank of the layers of which the metadata state an alpha, and the file none.

    pairs: layer -> role -> key. Entries that are no such JSON state nothing.
    """
    configs = configs_in(metadata) or {}
    known = {part: c for part, c in configs.items() if is_number(c.get("lora_alpha"))}
    scales = {}
    for base, keys in pairs.items():
        part, _, path = base.partition(".")
        if "alpha" in keys or part not in known:
            continue
        config, rank = known[part], tensors[keys["down"]].shape[0]
        if stated(path, config, "rank_pattern", "r") not in (None, rank):
            continue  # another program has changed the tensors since
        alpha = stated(path, config, "alpha_pattern", "lora_alpha")
        root = math.sqrt(rank) if config.get("use_rslora") is True else rank
        scales[base] = (rank if alpha is None else alpha) / root
    return scales


def configs_in(metadata: Mapping[str, str]) -> dict[str, dict[str, object]] | None:
    """Returns part of the model -> its entries; None where the value is no JSON object."""
    try:
        entries = json.loads(metadata.get(KEY, "{}"))
    except (ValueError, RecursionError):
        return None
    if not isinstance(entries, dict):
        return None
    configs: dict[str, dict[str, object]] = {}
    for key, value in entries.items():
        part, _, field = key.rpartition(".")
        configs.setdefault(part, {})[field] = value
    return configs


def unsound(metadata: Mapping[str, str]) -> bool:
    """Returns whether the entry is there and states something that is no rank, alpha or pattern."""
    configs = configs_in(metadata)
    return configs is None or not all(map(is_sound, configs.values()))


def is_sound(config: Mapping[str, object]) -> bool:
    """Returns whether the entries of one part are those that PEFT writes, as far as they count."""
    rank, alpha, root = (config.get(name) for name in ("r", "lora_alpha", "use_rslora"))
    numbers = [number for number in (rank, alpha) if number is not None]
    for name in ("rank_pattern", "alpha_pattern"):
        table = config.get(name)
        if table is not None and not isinstance(table, dict):
            return False
        numbers += (table or {}).values()
    positive = not is_number(rank) or rank > 0  # type: ignore[operator]
    return positive and root in (None, True, False) and all(map(is_number, numbers))


def stated(path: str, config: Mapping[str, object], patterns: str, common: str) -> float | None:
    """Returns the number that is stated for a module: that of the pattern that fits its path, else
    the common one; None where neither is a number.

    A pattern is compared as text: to run a stranger's regular expression may take for ever.
    """
    table, value = config.get(patterns), config.get(common)
    for pattern, number in (table if isinstance(table, dict) else {}).items():
        text = pattern.removeprefix("^").removesuffix("$").replace("\\.", ".")
        at_end = not pattern.startswith("^") and path.endswith(f".{text}")
        if is_number(number) and (path == text or at_end):
            return float(number)
    return float(value) if is_number(value) else None  # type: ignore[arg-type]


def is_number(value: object) -> bool:
    """Returns whether a JSON value is a number that can be a rank or an alpha."""
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return False
    return abs(value) <= LARGEST
