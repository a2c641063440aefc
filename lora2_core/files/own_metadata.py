"""The metadata that only LoRA² has: lora2.version, basis, layers, history and settings.

Anybody can edit metadata. So reading judges every entry alone, and every row of lora2.layers: what
is sound is used, and the rest is left out with a reason. A layer whose row is left out stays, under
its name in the file.
"""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Any

import torch

from ..adapter.lora import LoraLayer, RankedLora
from ..adapter.names import HOST_PREFIX, kohya_name
from ..adapter.origin import Learned
from .checksums import ROWS, Checksums, row_crc
from .layer_row import LayerRow
from .tensor_file import shown

# of the lora2 entries. Files of version 1 have no seal; up to version 2 every alpha is the rank
VERSION = "3"
SINGULAR, ANY = "singular", "any"  # values of lora2.basis
HISTORY_POINTS = 200  # of a curve in a file: enough for a graph, some 4 kB in all
LARGEST_FLOAT = sys.float_info.max  # an int of JSON may be larger
ODD = "is not what LoRA\u00b2 writes"


@dataclass(frozen=True)
class OwnMetadata:
    """What a file's own metadata says, as far as it is sound.

    layers: all of the file by name, those with a row first, in the order of the training.
    bases: layer -> its name in the file.
    left_out: the entries and rows that can't be used, each with the reason.
    """

    layers: dict[str, LoraLayer]
    bases: dict[str, str]
    learned: Learned
    history: Mapping[str, Sequence[float]]
    settings: Mapping
    singular: bool
    left_out: list[str]


def own_entries(lora: RankedLora, bases: Mapping[str, str]) -> dict[str, str]:
    """Returns the lora2.* entries of an adapter's file; bases: layer -> its name in the file."""
    rows = [LayerRow.of(bases[n], n, y, lora.origin.learned) for n, y in lora.layers.items()]
    values = {
        "layers": [row.to_json() for row in rows],
        "history": {name: thin(series) for name, series in lora.origin.run.history.items()},
        "settings": lora.origin.run.settings,
    }
    texts = {"version": VERSION, "basis": SINGULAR if lora.singular else ANY}
    texts |= {key: json.dumps(value, separators=(",", ":")) for key, value in values.items()}
    return {f"lora2.{key}": text for key, text in texts.items()}


def common_alpha(ranks: Iterable[int]) -> float:
    """Returns the alpha of all layers of a file with these ranks: the power of two nearest to the
    mean of those that are not 0.

    Every loader takes alpha / rank of each layer, but diffusers, which reads a kohya file of mixed
    ranks, takes one alpha for all layers.
    """
    used = [rank for rank in ranks if rank]
    return 2.0 ** round(math.log2(fmean(used))) if used else 1.0


def thin(values: Sequence[float], points: int = HISTORY_POINTS) -> list[float]:
    """Returns at most `points` values of a series, evenly spaced, with the first and the last one,
    rounded to six digits; NaN and infinity become 0.
    """
    if len(values) > points:
        values = [values[round(i * (len(values) - 1) / (points - 1))] for i in range(points)]
    return [float(f"{v:.6g}") if math.isfinite(v) else 0.0 for v in values]


def read_own(
    metadata: Mapping[str, str],
    layers: Mapping[str, LoraLayer],
    checksums: Checksums | None,
    *,
    intact: bool,
) -> OwnMetadata:
    """Returns the sound part of a file's lora2.* entries.

    layers: the file's layers by their name in the file. checksums: of the file as it was written,
    None where they are not known. intact: the header is as it was written, so that its module paths
    need no other proof.
    """
    values: dict[str, Any] = {}
    left_out = []
    for key, is_sound in (("history", is_history), ("settings", is_object), ("basis", is_basis)):
        try:
            values[key] = entry_of(metadata, f"lora2.{key}", checksums)
            if not is_sound(values[key]):
                raise ValueError(ODD)
        except ValueError as reason:
            values.pop(key, None)
            left_out.append(f"lora2.{key} {reason}")
    rows, rows_left_out = sound_rows(metadata, layers, checksums)
    named, name_of = {}, {}  # name -> layer, and name in the file -> name
    for base, row in rows.items():
        proven = intact or checksums is not None or follows_from(base, row.name)
        free = row.name not in named and row.name not in layers
        name = name_of[base] = row.name if proven and free else base
        named[name] = layers[base] if base in layers else empty_layer(row)
    for base in layers:
        if base not in rows:
            name_of[base], named[base] = base, layers[base]
    return OwnMetadata(
        named,
        {name: base for base, name in name_of.items()},
        Learned(
            {name_of[b]: row.rank for b, row in rows.items()},
            {name_of[b]: row.nu for b, row in rows.items()},
            {name_of[b]: r.sensitivity for b, r in rows.items() if r.sensitivity is not None},
        ),
        values.get("history", {}),
        values.get("settings", {}),
        values.get("basis") == SINGULAR,
        left_out + rows_left_out,
    )


def entry_of(metadata: Mapping[str, str], key: str, checksums: Checksums | None) -> object:
    """Returns the value of a lora2 entry; ValueError with the reason where it can't be used."""
    if key not in metadata:
        raise ValueError("is missing")
    text = metadata[key]
    if checksums and key != ROWS and not checksums.entry_fits(key, text):
        raise ValueError("was changed")
    if key == "lora2.basis":
        return text
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise ValueError("is no JSON") from error


def sound_rows(
    metadata: Mapping[str, str], layers: Mapping[str, LoraLayer], checksums: Checksums | None
) -> tuple[dict[str, LayerRow], list[str]]:
    """Returns (rows, left_out): the rows that are valid, unchanged, and agree with the tensors, by
    the layer's name in the file, and sentences on the others.
    """
    try:
        values = entry_of(metadata, ROWS, checksums)
        if not isinstance(values, list):
            raise ValueError("is no list")
    except ValueError as reason:
        return {}, [f"{ROWS} {reason}"]
    rows: dict[str, LayerRow] = {}
    names, left_out = set(), []
    for number, value in enumerate(values, 1):
        row = LayerRow.from_json(value)
        if row is None:
            fault = ODD
        elif checksums and row_crc(value) not in checksums.rows:
            fault = "was changed"
        elif row.base in rows or row.name in names:
            fault = "names a layer for the second time"
        elif row.base in layers and not row.fits(layers[row.base]):
            fault = "has another shape than the tensors"
        else:
            rows[row.base] = row
            names.add(row.name)
            continue
        which = shown(row.base) if row else f"number {number}"
        left_out.append(f"the row {which} of {ROWS} {fault}")
    return rows, left_out + [f"{ROWS} has no row of {shown(b)}" for b in layers if b not in rows]


def valid_rows(metadata: Mapping[str, str]) -> list[LayerRow]:
    """Returns the rows of lora2.layers that have the right form; [] where there are none."""
    try:
        values = entry_of(metadata, ROWS, None)
    except ValueError:
        return []
    rows = map(LayerRow.from_json, values if isinstance(values, list) else [])
    return [row for row in rows if row is not None]


def empty_layer(row: LayerRow) -> LoraLayer:
    """Returns the layer of a row that has no tensors in the file, of rank 0."""
    return LoraLayer(torch.zeros(row.out, 0), torch.zeros(0, row.fan_in), row.kernel)


def follows_from(base: str, name: str) -> bool:
    """Returns whether a layer's name in a file is the usual one for its module path."""
    path = name.removeprefix(HOST_PREFIX)
    return base in (name, kohya_name(name)) or base.partition(".")[2] == path


def is_object(value: object) -> bool:
    """Returns whether a JSON value is an object."""
    return isinstance(value, dict)


def is_history(value: object) -> bool:
    """Returns whether a JSON value is an object of lists of finite numbers."""
    return isinstance(value, dict) and all(
        isinstance(series, list)
        and all(isinstance(n, (int, float)) and abs(n) <= LARGEST_FLOAT for n in series)
        for series in value.values()
    )


def is_basis(value: object) -> bool:
    """Returns whether a text is a value of lora2.basis."""
    return value in (SINGULAR, ANY)
