"""Reads adapter files of any program; every value is checked before it is used."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor

from ..adapter.lora import LoraLayer, RankedLora
from ..adapter.names import UNSUPPORTED, split_key
from ..adapter.origin import Origin, RunFacts, SourceFile
from ..saying import log
from .own_metadata import read_own
from .provenance import (
    EDITED_NOTE,
    LEFT_OUT_NOTE,
    REWRITTEN_NOTE,
    STALE_NOTE,
    Provenance,
    State,
    provenance,
)
from .tensor_file import Entry, Header, read, shown

MOST_LISTED = 4  # changes of one kind that a line of the log names

# most of the values of lora_up @ lora_down: fp32 ends a little above, at 3.4e38
LARGEST = 1e38
LARGEST_MID = 7  # side of a kernel of lora_mid: loading makes a layer 49 times as large, not more


def load(path: str | Path) -> RankedLora:
    """Reads an adapter file of kohya, diffusers or PEFT, and returns the checked adapter, with the
    scale alpha / rank folded into lora_up.

    Layers are named by module path in LoRA² files, and by their name in the file otherwise.
    origin.file.notes says what another program changed since LoRA² wrote the file. ValueError in
    one sentence that names the file, the key and the fault; OSError from the disk.
    """
    header, payload = read(Path(path), accept)
    layers, fault = None, None
    with ThreadPoolExecutor(1) as other:  # hashing leaves Python's lock to others
        digest = other.submit(lambda: hashlib.sha256(payload).hexdigest())
        try:
            layers = collect_layers(header.tensors(payload))
        except ValueError as error:
            fault = error
    # a damaged file is called damaged, whatever else is wrong with its values
    judged = provenance(header, payload, digest.result(), layers)
    if layers is None:
        raise ValueError(f"{header.name}: {fault}.") from fault
    return adapter_of(header, layers, judged)


def adapter_of(header: Header, layers: dict[str, LoraLayer], judged: Provenance) -> RankedLora:
    """Returns the adapter with what its file says of it, as far as that can be believed; logs a
    warning on what can't.
    """
    file, lora = SourceFile(metadata=header.metadata), RankedLora(layers)
    if judged.state in (State.INTACT, State.EDITED):
        intact = judged.state is State.INTACT
        own = read_own(header.metadata, layers, judged.checksums, intact=intact)
        file = replace(file, bases=own.bases, left_out=own.left_out)
        run = RunFacts(settings=own.settings, history=own.history)
        lora = RankedLora(own.layers, Origin(own.learned, run), own.singular)
    if judged.state is State.EDITED and judged.checksums:
        file = replace(file, changes=judged.checksums.changed_entries(header.metadata))
    file = replace(file, notes=notes_on(judged, file))
    if file.notes:
        log.warning("%s: %s", header.name, log_line(file))
    return replace(lora, origin=replace(lora.origin, file=file))


def notes_on(judged: Provenance, file: SourceFile) -> list[str]:
    """Returns sentences for the user on what another program did to the file."""
    notes = {State.EDITED: [EDITED_NOTE], State.REWRITTEN: [REWRITTEN_NOTE]}.get(judged.state, [])
    notes += [STALE_NOTE] if judged.stale else []
    return notes + ([LEFT_OUT_NOTE] if file.left_out else [])


def log_line(file: SourceFile) -> str:
    """Returns the first note on a file with some of its details, in ASCII for any terminal."""
    note = file.notes[0]
    parts = [note[0].lower() + note[1:]]
    for what, entries in (("In its metadata", file.changes), ("Left out", file.left_out)):
        if entries:
            rest = len(entries) - MOST_LISTED
            more = f"; and {rest} more" if rest > 0 else ""
            parts.append(f"{what}: {'; '.join(map(shown, entries[:MOST_LISTED]))}{more}.")
    return " ".join(parts).replace("\u00b2", "2").encode("ascii", "backslashreplace").decode()


def accept(header: Header) -> None:
    """Raises ValueError unless the header is that of a plain LoRA. The tensors of another file,
    which may be gigabytes, are then never read.
    """
    try:
        pairs_of(header.entries)
    except ValueError as error:
        raise ValueError(f"{header.name}: {error}.") from error


def pairs_of(table: Mapping[str, Entry | Tensor]) -> dict[str, dict[str, str]]:
    """Returns base name -> role -> key of every low-rank pair, with dtypes and shapes checked;
    ValueError for the first fault.
    """
    pairs: dict[str, dict[str, str]] = {}
    for key, entry in table.items():
        if UNSUPPORTED.search(key):
            raise ValueError(
                f"{shown(key)} is not of a plain LoRA (LoHa, LoKr, DoRA, bias and norm changes "
                "aren't read): use the host's Load LoRA for this one"
            )
        if (named := split_key(key)) is None:
            raise ValueError(f"{shown(key)} belongs to no LoRA pair: this is not a LoRA file")
        base, role = named
        if other := pairs.setdefault(base, {}).get(role):
            raise ValueError(f"{shown(key)} is the same as {shown(other)}")
        if not entry.dtype.is_floating_point:
            raise ValueError(f"{shown(key)} holds values that are not finite numbers")
        pairs[base][role] = key
    if not pairs:
        raise ValueError("the file holds no LoRA layers")
    for base, keys in pairs.items():
        if not {"up", "down"} <= set(keys):
            raise ValueError(
                f"{shown(base)} has {' and '.join(sorted(keys))} "
                "but no complete lora_up and lora_down pair"
            )
        check_shapes(base, {role: tuple(table[key].shape) for role, key in keys.items()})
    return pairs


def check_shapes(base: str, shapes: Mapping[str, tuple[int, ...]]) -> None:
    """Raises ValueError unless the shapes of a layer's lora_up, lora_down, lora_mid and alpha fit
    together.
    """
    up, down, mid = shapes["up"], shapes["down"], shapes.get("mid")
    matrix = len(up) == len(down) == 2 or (
        len(down) == 4 and len(up) in (2, 4) and math.prod(up[2:]) == 1
    )
    text = f"lora_up {list(up)} and lora_down {list(down)}"
    if mid is not None:
        square = len(mid) == 4 and mid[0] == mid[1] == down[0] and max(mid[2:]) <= LARGEST_MID
        matrix = matrix and square and len(down) == 4 and math.prod(down[2:]) == 1
        text += f" and lora_mid {list(mid)}"
    if not matrix or up[1] != down[0] or 0 in up + down + (mid or ()):
        raise ValueError(f"{shown(base)} has shapes {text}, which don't fit together")
    if math.prod(shapes.get("alpha", ())) != 1:
        raise ValueError(
            f"{shown(base)}.alpha has shape {list(shapes['alpha'])}: it must be one number other "
            "than 0"
        )


def collect_layers(tensors: Mapping[str, Tensor]) -> dict[str, LoraLayer]:
    """Returns every layer by its name in the file, in fp32, with alpha / rank folded into lora_up;
    ValueError for the first fault.
    """
    pairs = pairs_of(tensors)
    sizes = {key: largest(tensor) for key, tensor in tensors.items()}
    for key, size in sizes.items():
        if not math.isfinite(size):
            raise ValueError(f"{shown(key)} holds values that are not finite numbers")
    return {base: layer_of(base, keys, tensors, sizes) for base, keys in pairs.items()}


def layer_of(
    base: str, keys: Mapping[str, str], tensors: Mapping[str, Tensor], sizes: Mapping[str, float]
) -> LoraLayer:
    """Returns one layer, whose shapes are checked.

    keys: by role. sizes: the largest magnitude of each tensor, finite.
    """
    up, down = tensors[keys["up"]].float(), tensors[keys["down"]].float()
    rank, scale = len(down), 1.0
    size = rank * sizes[keys["up"]] * sizes[keys["down"]]
    if "mid" in keys:
        down = torch.einsum("abhw,bi->aihw", tensors[keys["mid"]].float(), down.flatten(1))
        size *= rank * sizes[keys["mid"]]
    if "alpha" in keys:
        if (alpha := float(tensors[keys["alpha"]])) == 0:
            raise ValueError(f"{shown(base)}.alpha is 0: it must be one number other than 0")
        scale = alpha / rank
    if not size * max(1.0, abs(scale)) < LARGEST:
        raise ValueError(f"{shown(base)} has values so large that their product is not finite")
    layer = LoraLayer.from_tensors(up if scale == 1 else up * scale, down).unpadded()
    if layer.rank > min(layer.up.shape[0], layer.down.shape[1]):
        raise ValueError(
            f"{shown(base)} has rank {layer.rank}, "
            f"more than its shape {layer.up.shape[0]} x {layer.down.shape[1]} allows"
        )
    return layer


def largest(tensor: Tensor) -> float:
    """Returns the largest magnitude of a tensor; NaN where it holds a NaN, infinity above fp32."""
    wide = tensor if tensor.dtype.itemsize > 1 else tensor.float()  # aminmax can't take 8 bits
    low, high = (float(value) for value in wide.aminmax())
    size = max(-low, high) if low == low else low
    return size if size <= torch.finfo(torch.float32).max else math.inf
