"""LoRA²'s own entries of a file's metadata, each used where it is sound and left out with a reason
where it isn't: everybody edits metadata, and no layer is lost for it.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field

import torch

from ..adapter.lora import LoraLayer
from ..adapter.names import HOST_PREFIX, kohya_name
from .checksums import ROWS, Checksums, row_crc
from .tensor_file import shown

BASES = ("singular", "any")
LARGEST = 1e9  # of a rate and a sensitivity


@dataclass
class OwnRows:
    """What could be used. layers: by name, in the order of training; bases: name -> that in the
    file; left_out: what could not be used, with its reason.
    """

    layers: dict[str, LoraLayer]
    bases: dict[str, str]
    info: dict
    left_out: list[str] = field(default_factory=list)


def read_own(
    metadata: Mapping[str, str],
    layers: Mapping[str, LoraLayer],
    checks: Checksums | None,
    *,
    sure: bool,
) -> OwnRows:
    """The lora2.* entries of a file with these layers by base name.

    checks: of the file as it was written, where that is known. sure: the header is as it was
    written, so that module paths are believed that nothing else confirms.
    """
    left_out: list[str] = []
    info = {}
    for key, sound in (("history", is_history), ("settings", is_object), ("basis", is_basis)):
        reason, value = entry_of(metadata, f"lora2.{key}", checks)
        if reason is None and not sound(value):
            reason = "is not what LoRA\u00b2 writes"
        if reason is None:
            info[key] = value
        else:
            left_out.append(f"lora2.{key} {reason}")
    rows = sound_rows(metadata, layers, checks, left_out)
    found, bases = {}, {}
    for base, name, out, fan_in, kernel, *_ in rows.values():
        believed = sure or checks is not None or is_path_of(name, base)
        name = name if believed and name not in found and name not in layers else base
        empty = torch.zeros(out, 0), torch.zeros(0, fan_in)
        found[name] = layers.get(base) or LoraLayer(*empty, tuple(kernel) if kernel else None)
        bases[name] = base
    for base in layers:
        if base not in rows:
            found[base], bases[base] = layers[base], base
    named = {bases[name]: name for name in found}
    if rows:
        info["learned_ranks"] = {named[b]: row[5] for b, row in rows.items()}
        info["rates"] = {named[b]: row[6] for b, row in rows.items()}
        info["sensitivity"] = {named[b]: row[7] for b, row in rows.items() if len(row) > 7}
    return OwnRows(found, bases, info, left_out)


def entry_of(
    metadata: Mapping[str, str], key: str, checks: Checksums | None
) -> tuple[str | None, object]:
    """(why it can't be used or None, its value); lora2.basis is text, the others are JSON."""
    if key not in metadata:
        return "is missing", None
    text = metadata[key]
    if checks and key != ROWS and not checks.entry_fits(key, text):
        return "was changed", None
    if key == "lora2.basis":
        return None, text
    try:
        return None, json.loads(text)
    except (ValueError, RecursionError):
        return "is no JSON", None


def sound_rows(
    metadata: Mapping[str, str],
    layers: Mapping[str, LoraLayer],
    checks: Checksums | None,
    left_out: list[str],
) -> dict[str, list]:
    """The rows of lora2.layers by base name, that are valid and agree with the tensors."""
    reason, rows = entry_of(metadata, ROWS, checks)
    if reason is None and not isinstance(rows, list):
        reason = "is no list"
    if reason is not None or not isinstance(rows, list):
        left_out.append(f"{ROWS} {reason}")
        return {}
    found: dict[str, list] = {}
    names = set()
    for number, row in enumerate(rows):
        if not is_row(row):
            fault = "is not what LoRA\u00b2 writes"
        elif checks and row_crc(row) not in checks.rows:
            fault = "was changed"
        elif row[0] in found or row[1] in names:
            fault = "names a layer for the second time"
        elif row[0] in layers and not is_of(row, layers[row[0]]):
            fault = "has another shape than the tensors"
        else:
            found[row[0]] = row
            names.add(row[1])
            continue
        said = shown(row[0]) if is_row(row) else f"number {number + 1}"
        left_out.append(f"the row {said} of {ROWS} {fault}")
    left_out += [f"{ROWS} has no row of {shown(b)}" for b in layers if b not in found]
    return found


def valid_rows(metadata: Mapping[str, str]) -> list[list]:
    """The rows of lora2.layers that have the right form, [] where there are none."""
    _, rows = entry_of(metadata, ROWS, None)
    return [row for row in rows if is_row(row)] if isinstance(rows, list) else []


def is_row(row: object) -> bool:
    """Whether it is a row as metadata.lora2_entries writes it, types checked."""
    if not isinstance(row, list) or len(row) not in (7, 8):
        return False
    base, name, rows, fan_in, kernel, learned, rate, sensitivity = [*row, 1.0][:8]
    sides = kernel if isinstance(kernel, list) and len(kernel) == 2 else [kernel]
    whole = [rows, fan_in, learned, *sides]
    return (
        isinstance(base, str) and isinstance(name, str)
        and isinstance(rate, (int, float)) and -LARGEST <= rate <= LARGEST
        and isinstance(sensitivity, (int, float)) and 0 <= sensitivity <= LARGEST
        and all(isinstance(n, int) and 0 <= n < 2**31 for n in whole)
        and (kernel == 0 or (len(sides) == 2 and 0 not in sides))
    )  # fmt: skip


def is_of(row: list, layer: LoraLayer) -> bool:
    """Whether a row's shape is the layer's; a kernel of 1 x 1 is the same as none."""
    kernel, own = (tuple(k) if k else (1, 1) for k in (row[4], layer.kernel))
    return [layer.up.shape[0], layer.down.shape[1]] == row[2:4] and kernel == own


def is_path_of(name: str, base: str) -> bool:
    """Whether a name in a file follows from a module path by itself."""
    path = name.removeprefix(HOST_PREFIX)
    return base in (name, kohya_name(name)) or base.partition(".")[2] == path


def is_object(value: object) -> bool:
    return isinstance(value, dict)


def is_history(value: object) -> bool:
    """Whether it is an object of lists of finite numbers."""
    return isinstance(value, dict) and all(
        isinstance(series, list)
        and all(isinstance(n, (int, float)) and math.isfinite(n) for n in series)
        for series in value.values()
    )


def is_basis(value: object) -> bool:
    return value in BASES
