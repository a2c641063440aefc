"""Reading adapter files of any program, checked before anything is believed."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import torch
from torch import Tensor

from ..adapter.lora import LoraLayer, RankedLora
from ..adapter.names import UNSUPPORTED, split_key
from ..saying import log
from .own_rows import read_own
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

MOST_TOLD = 4  # changes that a line of the log names

LARGEST = 1e38  # of a product of lora_up and lora_down: fp32 ends a little above
LARGEST_MID = 7  # kernel of a lora_mid, whose product with lora_down is as many times as large


def load(path: str | Path) -> RankedLora:
    """Reads any low-rank adapter file (kohya, diffusers, PEFT), validated; the scale alpha / rank
    is folded in.

    Layers are named by module path in LoRA² files and by their name in the file otherwise.
    info["notes"] says what another program changed since LoRA² wrote it, info["left_out"] in
    detail. ValueError in one sentence that names file, key and fault.
    """
    header, payload = read(Path(path), accept)
    layers, fault = None, None
    with ThreadPoolExecutor(1) as other:  # hashing leaves Python's lock to others
        digest = other.submit(lambda: hashlib.sha256(payload).hexdigest())
        try:
            layers = collect_layers(header.tensors(payload))
        except ValueError as error:
            fault = error
    found = provenance(header, payload, digest.result(), layers)
    if layers is None:  # of a damaged file that is told, whatever else is wrong with it
        raise ValueError(f"{header.name}: {fault}.") from fault
    return described(header, layers, found)


def described(header: Header, layers: dict[str, LoraLayer], found: Provenance) -> RankedLora:
    """Returns the layers with what the file says of them and may still be believed; what may not is
    a warning.
    """
    info: dict = {"metadata": header.metadata}
    notes, left_out, changes = [], [], []
    if found.state in (State.INTACT, State.EDITED):
        own = read_own(header.metadata, layers, found.checks, sure=found.state is State.INTACT)
        layers, left_out = own.layers, own.left_out
        info |= own.info | {"bases": own.bases}
    if found.state is State.EDITED:
        notes.append(EDITED_NOTE)
        changes = found.checks.changed_entries(header.metadata) if found.checks else []
    elif found.state is State.REWRITTEN:
        notes.append(REWRITTEN_NOTE)
    elif found.stale:
        notes.append(STALE_NOTE)
    if left_out:
        notes.append(LEFT_OUT_NOTE)
    if notes:
        info |= {"notes": notes, "changes": changes, "left_out": left_out}
        log.warning("%s: %s", header.name, in_a_line(notes[0], changes, left_out))
    return RankedLora(layers, info)


def in_a_line(note: str, changes: list[str], left_out: list[str]) -> str:
    """Returns a note with some of what it is about, in ASCII, as terminals need it."""
    parts = [note[0].lower() + note[1:]]
    for what, found in (("In its metadata", changes), ("Left out", left_out)):
        if found:
            more = f"; and {len(found) - MOST_TOLD} more" if len(found) > MOST_TOLD else ""
            parts.append(f"{what}: {'; '.join(map(shown, found[:MOST_TOLD]))}{more}.")
    return " ".join(parts).replace("\u00b2", "2").encode("ascii", "backslashreplace").decode()


def accept(header: Header) -> None:
    """Refuses what is no plain LoRA by its header alone: a file of gigabytes is then not read."""
    try:
        pairs_of(header.entries)
    except ValueError as error:
        raise ValueError(f"{header.name}: {error}.") from error


def pairs_of(table: Mapping[str, Entry | Tensor]) -> dict[str, dict[str, str]]:
    """Returns base name -> role -> key of every low-rank pair; kinds of numbers and shapes
    checked.
    """
    pairs: dict[str, dict[str, str]] = {}
    for key, found in table.items():
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
        if not found.dtype.is_floating_point:
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
    """Checks that the shapes of lora_up, lora_down, lora_mid and alpha fit together."""
    up, down, mid = shapes["up"], shapes["down"], shapes.get("mid")
    matrix = len(up) == len(down) == 2 or (
        len(down) == 4 and len(up) in (2, 4) and math.prod(up[2:]) == 1
    )
    told = f"lora_up {list(up)} and lora_down {list(down)}"
    if mid is not None:
        square = len(mid) == 4 and mid[0] == mid[1] == down[0] and max(mid[2:]) <= LARGEST_MID
        matrix = matrix and square and len(down) == 4 and math.prod(down[2:]) == 1
        told += f" and lora_mid {list(mid)}"
    if not matrix or up[1] != down[0] or 0 in up + down + (mid or ()):
        raise ValueError(f"{shown(base)} has shapes {told}, which don't fit together")
    if math.prod(shapes.get("alpha", ())) != 1:
        raise ValueError(
            f"{shown(base)}.alpha has shape {list(shapes['alpha'])}: it must be one number other "
            "than 0"
        )


def collect_layers(tensors: Mapping[str, Tensor]) -> dict[str, LoraLayer]:
    """Pairs of lora_up and lora_down by base name, in fp32 with alpha / rank folded into
    lora_up.
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
    """Returns one layer of checked shapes and finite values; sizes: the largest of each tensor."""
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
    """Returns the largest magnitude; NaN where there is one."""
    kind = tensor if tensor.dtype.itemsize > 1 else tensor.float()  # 8-bit kinds have no aminmax
    low, high = (float(value) for value in kind.aminmax())
    size = max(-low, high) if low == low else low
    return size if size <= torch.finfo(torch.float32).max else math.inf
