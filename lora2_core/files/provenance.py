"""What happened to a file since LoRA² wrote it: nothing, an edit of its metadata, other tensors, or
damage.

Every bit is under a hash. The seal covers the header, `sshs_model_hash` the payload, and
`lora2.checks` every part alone. A broken seal with whole tensors is an edit. Other tensors are
the work of another program where their keys, kinds or shapes differ, where it wrote a new hash, or
where all tensors of one role changed and all of another are whole. Damage changes no shape, renews
no hash and knows no roles. What remains in doubt is refused.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum

import torch

from ..adapter.lora import LoraLayer
from ..adapter.names import split_key
from .checksums import SHORT, Checksums, read_checksums, structure_of, tensors_of
from .own_rows import is_of, valid_rows
from .seal import KEY, header_is_whole
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
EVENNESS = 0.02  # of |lora_up| / |lora_down| - 1: fp16 and bf16 keep both equal to 1e-3
SAVED = {torch.float16, torch.bfloat16, torch.float32}


class State(Enum):
    """What a file is."""

    INTACT = "as it was written"
    EDITED = "the tensors as they were written under another header"
    REWRITTEN = "other tensors under metadata of LoRA\u00b2"
    FOREIGN = "of another program"


@dataclass(frozen=True)
class Provenance:
    """What a file is, and the checksums of its parts where they tell more than the seal."""

    state: State
    checks: Checksums | None = None
    stale: bool = False  # the hash that a foreign file tells is another one


def provenance(
    header: Header, payload: bytearray, digest: str, layers: Mapping[str, LoraLayer] | None
) -> Provenance:
    """Judges a file by its payload's SHA-256 and its layers by base name, which are None where the
    values have a fault. ValueError when it is damaged.
    """
    metadata = header.metadata
    if not any(key.startswith("lora2.") for key in metadata):
        stale = metadata.get("sshs_model_hash") not in (None, digest)
        return Provenance(State.FOREIGN, stale=stale)
    told = told_hashes(metadata)
    if header_is_whole(header.raw, metadata):
        if told <= {digest}:
            return Provenance(State.INTACT)
        if KEY in metadata:
            raise damaged(header)
    checks = read_checksums(metadata)
    if checks and len(checks.tensors):
        state = by_checksums(header, payload, digest, checks)
    else:
        state = by_form(header, payload, digest, layers)
    if state is None:
        raise damaged(header)
    return Provenance(state, checks)


def told_hashes(metadata: Mapping[str, str]) -> set[str]:
    """Returns what the metadata says that the payload's SHA-256 is; two where they disagree."""
    found = (metadata.get(key) for key in ("sshs_model_hash", "modelspec.hash_sha256"))
    return {value.removeprefix("0x") for value in found if value is not None}


def by_checksums(
    header: Header, payload: bytearray, digest: str, checks: Checksums
) -> State | None:
    """Of a file with checksums of its parts; None for damage."""
    now = tensors_of(header.entries, payload)
    whole = digest[:SHORT] == checks.payload
    if structure_of(header.entries) != checks.structure:
        renamed = sorted(now.values()) == sorted(checks.tensors)
        return State.REWRITTEN if renamed or not whole else None  # else its bytes are misread
    changed = {key for key, other in zip(now, checks.tensors, strict=True) if now[key] != other}
    if not changed:
        return State.EDITED
    if whole:
        return None
    renewed = digest in told_hashes(header.metadata)
    return State.REWRITTEN if renewed or is_by_role(header, payload, changed) else None


def is_by_role(header: Header, payload: bytearray, changed: set[str]) -> bool:
    """Returns whether all lora_up, all lora_down or all alphas changed, at least two and none to
    zeros, and all of another role are whole: scaling, merging and new alphas do that.
    """
    roles: dict[str, set[str]] = {}
    for key in header.entries:
        roles.setdefault((split_key(key) or ("", ""))[1], set()).add(key)
    rewritten = any(len(keys) >= 2 and keys <= changed for keys in roles.values())
    entries = (header.entries[key] for key in changed)
    return (
        rewritten
        and any(not keys & changed for keys in roles.values())
        and all(any(memoryview(payload)[entry.start : entry.end]) for entry in entries)
    )


def by_form(
    header: Header, payload: bytearray, digest: str, layers: Mapping[str, LoraLayer] | None
) -> State | None:
    """Of a file without checksums, as those from before them: by whether its layers have the form
    in which LoRA² writes them; None for damage.
    """
    told = told_hashes(header.metadata)
    fits = not told or digest in told
    if layers is None:
        return State.REWRITTEN if fits else None
    if has_other_kinds(header) or most_have_other_shapes(header.metadata, layers):
        return State.REWRITTEN
    scales = own_scales(header, payload)
    scaled = [base for base in layers if scales.get(base, 1.0) != 1]
    other = [base for base, layer in layers.items() if not is_as_saved(layer, scales.get(base, 1))]
    if fits:
        return State.REWRITTEN if len({*scaled, *other}) > len(layers) / 2 else State.EDITED
    if len(layers) < 2 or len(scales) < len(layers):
        return None
    only = (not scaled and len(other) == len(layers)) or (not other and len(scaled) == len(layers))
    return State.REWRITTEN if only else None


def own_scales(header: Header, payload: bytearray) -> dict[str, float]:
    """Returns alpha / rank of every layer with an alpha, by base name; LoRA² writes 1."""
    alphas, ranks = {}, {}
    for key, entry in header.entries.items():
        base, role = split_key(key) or (key, "")
        if role == "alpha":
            alphas[base] = float(entry.tensor(payload))
        elif role == "down":
            ranks[base] = entry.shape[0]
    return {base: alpha / ranks[base] for base, alpha in alphas.items()}


def has_other_kinds(header: Header) -> bool:
    """Returns whether the numbers are of kinds that LoRA² doesn't write: alphas are fp32, and all
    others of one kind.
    """
    kinds: dict[bool, set[torch.dtype]] = {True: set(), False: set()}
    for key, entry in header.entries.items():
        kinds[key.endswith(".alpha")].add(entry.dtype)
    weights = kinds[False]
    return not (kinds[True] <= {torch.float32} and len(weights) == 1 and weights <= SAVED)


def most_have_other_shapes(metadata: Mapping[str, str], layers: Mapping[str, LoraLayer]) -> bool:
    """Returns whether most layers are not those of lora2.layers, or have more rank than they
    learned.
    """
    rows = {row[0]: row for row in valid_rows(metadata)}
    fit = [b for b, y in layers.items() if b in rows and is_of(rows[b], y) and y.rank <= rows[b][5]]
    return bool(rows) and len(fit) < len(layers) / 2


def is_as_saved(layer: LoraLayer, scale: float) -> bool:
    """Returns whether a layer is in its singular basis with evenly shared values, as far as that is
    quickly seen; scale: what was folded into lora_up.
    """
    up, down = float(layer.up.norm()) / abs(scale), float(layer.down.norm())
    energy = layer.energy
    falls = energy[1:] <= 1.1 * energy[:-1] + 1e-6 * energy.sum()
    return abs(up - down) <= EVENNESS * down and bool(falls.all())


def damaged(header: Header) -> ValueError:
    """Returns the sentence for a file whose values can't be trusted."""
    return ValueError(
        f"{header.name} is damaged, or another program changed some of its values: they don't "
        "match its own hash. Get the file again, or use the host's Load LoRA for it."
    )
