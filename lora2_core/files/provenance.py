"""Finds out what happened to a file since LoRA² wrote it.

A file of LoRA² holds three proofs of itself. The seal is a hash of the header. `sshs_model_hash` is
a hash of the payload, the bytes of the tensors. `lora2.checks` has a checksum of every part alone.
They are judged in this order:

1. Without lora2 metadata the file is foreign.
2. Where the seal and the payload's hash are right, it is intact. Where only the hash is wrong, it
   is damaged: a program that changes tensors writes the header anew, which breaks the seal.
3. The seal is broken, but all tensors have their checksums: only the metadata was edited.
4. Tensors were changed too. That was another program if it left one of three signs: other keys,
   dtypes or shapes; a new hash of the payload; or a change of all tensors of one role (lora_up,
   lora_down, alpha) and of none of another, as scaling and merging do. Damage does none of these.
5. Without a sign it may be damage, and the file is refused.

A file from before the checksums is judged by the form in which LoRA² writes layers instead.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum

import torch

from ..adapter.lora import LoraLayer
from ..adapter.names import split_key
from .checksums import DIGITS, Checksums, read_checksums, structure_of, tensors_of
from .own_metadata import common_alpha, valid_rows
from .seal import KEY, seal_holds
from .tensor_file import Header

# shown in nodes; locales/*/main.json has them in other languages
EDITED_NOTE = "Its metadata was edited by another program; its tensors are as they were saved."
REWRITTEN_NOTE = (
    "Its tensors were changed by another program, so its lora2 metadata no longer fits: it is read "
    "as a plain LoRA."
)
LEFT_OUT_NOTE = "Its lora2 metadata is left out in part: LoRA\u00b2 Info says what and why."
STALE_NOTE = (
    "Its bytes don't match the hash in its metadata: it was changed by another program, or is "
    "damaged."
)
# |lora_up| / |lora_down| of a layer that LoRA² saved lies so near to 1; fp16 and bf16 keep 1e-3
EVENNESS = 0.02
RISE = 1.1  # most that a position's energy is above the one before, after rounding to fp16 or bf16
SAVED_DTYPES = {torch.float16, torch.bfloat16, torch.float32}


class State(Enum):
    """What a file is."""

    INTACT = "as LoRA\u00b2 wrote it"
    EDITED = "tensors as LoRA\u00b2 wrote them, under another header"
    REWRITTEN = "tensors of another program, under metadata of LoRA\u00b2"
    FOREIGN = "written by another program"


@dataclass(frozen=True)
class Provenance:
    """What a file is.

    checksums: of its parts as LoRA² wrote them, where the seal is broken and they can be read.
    stale: a foreign file whose metadata states another hash than its payload has.
    """

    state: State
    checksums: Checksums | None = None
    stale: bool = False


def provenance(
    header: Header, payload: bytearray, digest: str, layers: Mapping[str, LoraLayer] | None
) -> Provenance:
    """Returns what happened to a file; ValueError when it is damaged.

    digest: the payload's SHA-256. layers: by their name in the file, None where values are unsound.
    """
    metadata = header.metadata
    if not any(key.startswith("lora2.") for key in metadata):
        stale = metadata.get("sshs_model_hash") not in (None, digest)
        return Provenance(State.FOREIGN, stale=stale)
    if seal_holds(header.raw, metadata):
        if stated_hashes(metadata) <= {digest}:
            return Provenance(State.INTACT)
        if KEY in metadata:
            raise damaged(header)
    checksums = read_checksums(metadata)
    if checksums and checksums.tensors:
        state = state_by_checksums(header, payload, digest, checksums)
    else:
        state = state_by_form(header, payload, digest, layers)
    if state is None:
        raise damaged(header)
    return Provenance(state, checksums)


def stated_hashes(metadata: Mapping[str, str]) -> set[str]:
    """Returns the SHA-256 of the payload as the metadata states it; two where its entries
    disagree.
    """
    entries = (metadata.get(key) for key in ("sshs_model_hash", "modelspec.hash_sha256"))
    return {entry.removeprefix("0x") for entry in entries if entry is not None}


def state_by_checksums(
    header: Header, payload: bytearray, digest: str, checksums: Checksums
) -> State | None:
    """Returns the state of a file with a broken seal and checksums of its parts; None for
    damage.
    """
    now = tensors_of(header.entries, payload)
    same_payload = digest[:DIGITS] == checksums.payload
    if structure_of(header.entries) != checksums.structure:
        # the old bytes under other keys are a renaming; under other shapes they would be misread
        renamed = sorted(now.values()) == sorted(checksums.tensors)
        return State.REWRITTEN if renamed or not same_payload else None
    before = zip(now, checksums.tensors, strict=True)
    changed = {key for key, checksum in before if now[key] != checksum}
    if not changed:
        return State.EDITED
    if same_payload:
        return None
    new_hash = digest in stated_hashes(header.metadata)
    return State.REWRITTEN if new_hash or changed_by_role(header, payload, changed) else None


def changed_by_role(header: Header, payload: bytearray, changed: set[str]) -> bool:
    """Returns whether the changed tensors are the work of a program: all of one role, at least two,
    none of another role, and none set to zeros.
    """
    keys_of: dict[str, set[str]] = {}
    for key in header.entries:
        keys_of.setdefault((split_key(key) or ("", ""))[1], set()).add(key)
    entries = (header.entries[key] for key in changed)
    return (
        any(len(keys) >= 2 and keys <= changed for keys in keys_of.values())
        and any(not keys & changed for keys in keys_of.values())
        and all(any(memoryview(payload)[entry.start : entry.end]) for entry in entries)
    )


def state_by_form(
    header: Header, payload: bytearray, digest: str, layers: Mapping[str, LoraLayer] | None
) -> State | None:
    """Returns the state of a file from before the checksums; None for damage.

    LoRA² writes every layer in its singular basis, and one alpha for all, or up to version 2 the
    rank as alpha. Where the hash
    is right, most layers in another form are the work of another program. Where it is wrong, one
    role must have changed in all layers and the other in none.
    """
    hashes = stated_hashes(header.metadata)
    hash_fits = not hashes or digest in hashes
    if layers is None:
        return State.REWRITTEN if hash_fits else None
    if has_other_dtypes(header) or most_have_other_shapes(header.metadata, layers):
        return State.REWRITTEN
    scales = scales_of(header, payload)
    scaled = {base for base in layers if scales.get(base, 1.0) != 1}
    reshaped = {b for b, layer in layers.items() if not is_as_saved(layer, scales.get(b, 1))}
    if hash_fits:
        return State.REWRITTEN if len(scaled | reshaped) > len(layers) / 2 else State.EDITED
    if len(layers) < 2 or len(scales) < len(layers):
        return None
    changed = {len(scaled), len(reshaped)}
    return State.REWRITTEN if changed == {0, len(layers)} else None


def scales_of(header: Header, payload: bytearray) -> dict[str, float]:
    """Returns each alpha divided by the one that LoRA² writes, by the layer's name in the file."""
    alphas, ranks = {}, {}
    for key, entry in header.entries.items():
        base, role = split_key(key) or (key, "")
        if role == "alpha":
            alphas[base] = float(entry.tensor(payload).flatten()[0])
        elif role == "down":
            ranks[base] = entry.shape[0]
    if header.metadata.get("lora2.version") in ("1", "2"):
        return {base: alpha / ranks[base] for base, alpha in alphas.items() if base in ranks}
    common = common_alpha(ranks.values())
    return {base: alpha / common for base, alpha in alphas.items() if base in ranks}


def has_other_dtypes(header: Header) -> bool:
    """Returns whether the dtypes are not those of LoRA²: fp32 for alphas, and one of three for all
    other tensors.
    """
    alphas = {entry.dtype for key, entry in header.entries.items() if key.endswith(".alpha")}
    weights = {entry.dtype for key, entry in header.entries.items() if not key.endswith(".alpha")}
    return not (alphas <= {torch.float32} and len(weights) == 1 and weights <= SAVED_DTYPES)


def most_have_other_shapes(metadata: Mapping[str, str], layers: Mapping[str, LoraLayer]) -> bool:
    """Returns whether most layers have no row in lora2.layers, another shape than their row, or
    more rank than the training learned.
    """
    rows = {row.base: row for row in valid_rows(metadata)}
    pairs = [(rows[base], layer) for base, layer in layers.items() if base in rows]
    fitting = [row for row, layer in pairs if row.fits(layer) and layer.rank <= row.rank]
    return bool(rows) and len(fitting) < len(layers) / 2


def is_as_saved(layer: LoraLayer, scale: float) -> bool:
    """Returns whether a layer looks as LoRA² saves it, by two quick signs of the singular basis:
    lora_up and lora_down have the same norm, and the energy falls from position to position.

    scale: what loading multiplied lora_up by.
    """
    up, down = float(layer.up.norm()) / abs(scale), float(layer.down.norm())
    energy = layer.energy
    falls = energy[1:] <= RISE * energy[:-1] + 1e-6 * energy.sum()
    return abs(up - down) <= EVENNESS * down and bool(falls.all())


def damaged(header: Header) -> ValueError:
    """Returns the error for a file whose values can't be trusted."""
    return ValueError(
        f"{header.name} is damaged, or another program changed some of its values: they don't "
        "match its own hash. Get the file again, or use the host's Load LoRA for it."
    )
