"""Reads adapter files of any program; every value is checked before it is used."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor

from ..adapter.lora import LoraLayer, RankedLora
from ..adapter.origin import Note, Origin, RunFacts, SourceFile, plain
from ..adapter.other_kinds import OtherChange, size_of
from ..saying import log
from .contents import Contents, check_growth, contents_of
from .own_metadata import read_own
from .peft_metadata import scales_in, unsound
from .provenance import (
    EDITED_NOTE,
    LEFT_OUT_NOTE,
    REWRITTEN_NOTE,
    STALE_NOTE,
    Provenance,
    State,
    provenance,
)
from .tensor_file import Header, read, shown

MOST_LISTED = 4  # changes of one kind that a line of the log names

# most of the values of lora_up @ lora_down: fp32 ends a little above, at 3.4e38
LARGEST = 1e38
# shown in nodes; locales/*/main.json has them in other languages
EXTRAS_NOTE = (
    "{0} of its {1} tensors are of no kind that LoRA loaders know, the first is {2}: they are left "
    "out."
)
IDLE_NOTE = "{0} of its layers have alpha 0, which turns them off, the first is {1}."
SCALE_NOTE = (
    "Its metadata has an alpha of its own, as PEFT writes it: it counts here, while ComfyUI's Load "
    "LoRA does not read it."
)
UNREAD_NOTE = (
    "Some entries of PEFT in its metadata can't be read as ranks or alphas: those don't count."
)
Convert = Callable[[dict], Mapping]  # other keys for the same tensors


def as_it_is(tensors: dict) -> Mapping:
    """Returns the tensors under the keys that they have."""
    return tensors


def load(path: str | Path, *, convert: Convert = as_it_is) -> RankedLora:
    """Reads an adapter file of any program, and returns the checked adapter, with the scale
    alpha / rank folded into lora_up. What is no low-rank pair stays as it is, in `others`.

    Layers are named by module path in LoRA² files, and by their name in the file otherwise.
    origin.file.notes says what another program changed since LoRA² wrote the file, and what is left
    out. convert: gives tensors, or their entries in the header, the keys of another spelling first.
    ValueError in one sentence that names the file, the key and the fault; OSError from the disk.
    """
    header, payload = read(Path(path), lambda header: accept(header, convert))
    found, fault = None, None
    with ThreadPoolExecutor(1) as other:  # hashing leaves Python's lock to others
        digest = other.submit(lambda: hashlib.sha256(payload).hexdigest())
        try:
            found = collect(convert(header.tensors(payload)), header.metadata)
        except ValueError as error:
            fault = error
    # a damaged file is called damaged, whatever else is wrong with its values
    layers = None if found is None else found.layers
    judged = provenance(header, payload, digest.result(), layers)
    if found is None:
        raise ValueError(f"{header.name}: {fault}.") from fault
    return adapter_of(header, found, judged)


@dataclass(frozen=True)
class Collected:
    """Holds what the tensors of a file say: pairs and other changes by the layer's name in the
    file, the key of each pair's lora_up or of a change's first tensor, and notes for the user.
    """

    layers: dict[str, LoraLayer]
    others: dict[str, OtherChange]
    keys: dict[str, str]
    notes: list[Note]


def adapter_of(header: Header, found: Collected, judged: Provenance) -> RankedLora:
    """Returns the adapter with what its file says of it, as far as that can be believed; logs a
    warning on what can't.
    """
    file, lora = SourceFile(metadata=header.metadata), RankedLora(found.layers)
    named = {base: base for base in found.layers}
    if judged.state in (State.INTACT, State.EDITED):
        intact = judged.state is State.INTACT
        own = read_own(header.metadata, found.layers, judged.checksums, intact=intact)
        file = replace(file, bases=own.bases, left_out=own.left_out)
        run = RunFacts(settings=own.settings, history=own.history)
        lora = RankedLora(own.layers, Origin(own.learned, run), own.singular)
        named = {base: name for name, base in own.bases.items()}
    if judged.state is State.EDITED and judged.checksums:
        file = replace(file, changes=judged.checksums.changed_entries(header.metadata))
    keys = {named.get(base, base): key for base, key in found.keys.items()}
    file = replace(file, keys=keys, notes=notes_on(judged, file) + found.notes)
    if file.notes:
        log.warning("%s: %s", header.name, log_line(file))
    return replace(lora, others=found.others, origin=replace(lora.origin, file=file))


def notes_on(judged: Provenance, file: SourceFile) -> list[Note]:
    """Returns sentences for the user on what another program did to the file."""
    of_states = {State.EDITED: EDITED_NOTE, State.REWRITTEN: REWRITTEN_NOTE}
    notes: list[Note] = [note for state, note in of_states.items() if state == judged.state]
    notes += [STALE_NOTE] if judged.stale else []
    return notes + ([LEFT_OUT_NOTE] if file.left_out else [])


def log_line(file: SourceFile) -> str:
    """Returns the first note on a file with some of its details, in ASCII for any terminal."""
    note = plain(file.notes[0])
    parts = [note[0].lower() + note[1:]]
    for what, entries in (("In its metadata", file.changes), ("Left out", file.left_out)):
        if entries:
            rest = len(entries) - MOST_LISTED
            more = f"; and {rest} more" if rest > 0 else ""
            parts.append(f"{what}: {'; '.join(map(shown, entries[:MOST_LISTED]))}{more}.")
    return " ".join(parts).replace("\u00b2", "2").encode("ascii", "backslashreplace").decode()


def accept(header: Header, convert: Convert = as_it_is) -> None:
    """Raises ValueError unless the header is that of a LoRA. The tensors of another file, which may
    be gigabytes, are then never read.
    """
    try:
        contents_of(convert(dict(header.entries)))
    except ValueError as error:
        raise ValueError(f"{header.name}: {error}.") from error


def collect(tensors: Mapping[str, Tensor], metadata: Mapping[str, str] | None = None) -> Collected:
    """Returns every change by the layer's name in the file: pairs in fp32 with alpha / rank folded
    into lora_up. ValueError for the first fault.

    metadata: of the file, which may hold the alphas of PEFT.
    """
    contents = contents_of(tensors)
    read = [k for keys in contents.pairs.values() for k in keys.values()]
    read += [k for keys in contents.others.values() for k in keys.values()]
    sizes = {key: largest(tensors[key]) for key in read}
    for key, size in sizes.items():
        if not math.isfinite(size):
            raise ValueError(f"{shown(key)} holds values that are not finite numbers")
    scales = scales_in(metadata or {}, contents.pairs, tensors)
    layers = {
        base: layer_of(base, keys, tensors, sizes, scales.get(base, 1.0))
        for base, keys in contents.pairs.items()
    }
    others = {
        base: change_of(base, endings, tensors, sizes) for base, endings in contents.others.items()
    }
    keys = {base: next(iter(endings.values())) for base, endings in contents.others.items()}
    keys |= {base: keys["up"] for base, keys in contents.pairs.items()}
    notes = notes_of(contents, tensors, sizes, scales)
    notes += [UNREAD_NOTE] if unsound(metadata or {}) else []
    return Collected(layers, others, keys, notes)


def notes_of(
    contents: Contents, tensors: Mapping[str, Tensor], sizes: Mapping[str, float], scales: Mapping
) -> list[Note]:
    """Returns what the user is told of the tensors: those that are left out, and layers that do
    nothing.
    """
    notes: list[Note] = []
    if extras := contents.extras:
        notes.append([EXTRAS_NOTE, len(extras), len(tensors), shown(extras[0])])
    idle = [b for b, keys in contents.pairs.items() if "alpha" in keys and not sizes[keys["alpha"]]]
    if idle:
        notes.append([IDLE_NOTE, len(idle), shown(idle[0])])
    return notes + ([SCALE_NOTE] if any(scale != 1 for scale in scales.values()) else [])


def layer_of(
    base: str,
    keys: Mapping[str, str],
    tensors: Mapping[str, Tensor],
    sizes: Mapping[str, float],
    scale: float = 1.0,
) -> LoraLayer:
    """Returns one layer, whose shapes are checked; of rank 0 where alpha is 0.

    keys: by role. sizes: the largest magnitude of each tensor, finite. scale: where there is no
    alpha. A rank above what the shape allows is brought down without an error.
    """
    up, down = tensors[keys["up"]].float(), tensors[keys["down"]].float()
    rank = len(down)
    size = rank * sizes[keys["up"]] * sizes[keys["down"]]
    if "mid" in keys:
        down = torch.einsum("ab...,bi->ai...", tensors[keys["mid"]].float(), down.flatten(1))
        size *= rank * sizes[keys["mid"]]
    if "alpha" in keys:
        scale = float(tensors[keys["alpha"]]) / rank
    if not size * max(1.0, abs(scale)) < LARGEST:
        raise ValueError(f"{shown(base)} has values so large that their product is not finite")
    layer = LoraLayer.from_tensors(up if scale == 1 else up * scale, down)
    layer = layer.unpadded() if scale else layer.first(0)
    return layer.rotated() if layer.rank > min(len(layer.up), layer.down.shape[1]) else layer


def change_of(
    base: str,
    endings: Mapping[str, str],
    tensors: Mapping[str, Tensor],
    sizes: Mapping[str, float],
) -> OtherChange:
    """Returns one change of another kind, whose shapes are checked.

    endings: its keys. sizes: the largest magnitude of each tensor, finite.
    """
    change = OtherChange({ending: tensors[key] for ending, key in endings.items()})
    factors = [
        max(1.0, sizes[key]) * max(1, tensors[key].shape[-1] if tensors[key].ndim else 1)
        for ending, key in endings.items() if ending != ".reshape_weight"
    ]  # fmt: skip
    if not math.prod(factors) < LARGEST:
        raise ValueError(f"{shown(base)} has values so large that their product is not finite")
    if (shape := change.tensors.get(".reshape_weight")) is not None:
        size = size_of(change.shapes)
        check_growth(base, shape.tolist(), size or (0, 0))
    return change


def largest(tensor: Tensor) -> float:
    """Returns the largest magnitude of a tensor; NaN where it holds a NaN, infinity above fp32."""
    wide = tensor if tensor.dtype.itemsize > 1 else tensor.float()  # aminmax can't take 8 bits
    low, high = (float(value) for value in wide.aminmax())
    size = max(-low, high) if low == low else low
    return size if size <= torch.finfo(torch.float32).max else math.inf
