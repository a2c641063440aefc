"""Checksums of a file's parts, inside its own header.

A hash of the whole file says only that something differs. With a checksum of each part, a reader
also knows what another program changed, and whether the file was edited or damaged.
"""

from __future__ import annotations

import json
import zlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from .tensor_file import Entry

KEY = "lora2.checks"
SEAL = "lora2.seal"
ROWS = "lora2.layers"  # checked row by row
DIGITS = 16  # hex digits kept of the payload's SHA-256: 64 bits, which no accident meets
LENGTH = 8  # characters of a CRC-32 in hex


@dataclass(frozen=True)
class Checksums:
    """The checksums of a file as it was written.

    structure: of all keys, dtypes and shapes together.
    payload: the first digits of its SHA-256.
    tensors: one a tensor, in the order of sorted keys.
    rows: one a row of lora2.layers.
    entries: one for every other entry of the metadata, by key.
    """

    structure: str
    payload: str
    tensors: tuple[str, ...]
    rows: frozenset[str]
    entries: Mapping[str, str]

    def changed_entries(self, metadata: Mapping[str, str]) -> list[str]:
        """Returns the entries of the metadata that differ, as `changed x`, `new y` or `gone z`."""
        now = {k: v for k, v in metadata.items() if k not in (KEY, SEAL, ROWS)}
        kept = now.keys() & self.entries.keys()
        differences = {
            "changed": {key for key in kept if not self.entry_fits(key, now[key])},
            "new": now.keys() - kept,
            "gone": self.entries.keys() - kept,
        }
        return [f"{what} {key}" for what, keys in differences.items() for key in sorted(keys)]

    def entry_fits(self, key: str, value: str) -> bool:
        """Returns whether an entry of the metadata is as it was written."""
        return self.entries.get(key) == crc(value)


def crc(text: str) -> str:
    """Returns the CRC-32 of a text as eight hex digits; one flipped bit always changes it."""
    return f"{zlib.crc32(text.encode()):08x}"


def row_crc(row: object) -> str:
    """Returns the checksum of a row of lora2.layers, which doesn't depend on spaces in the JSON."""
    return crc(json.dumps(row, separators=(",", ":")))


def form(entry: Entry) -> str:
    """Returns a tensor's dtype and shape as text, without ones at the end of the shape, which some
    programs drop or add.
    """
    shape = list(entry.shape)
    while shape and shape[-1] == 1:
        shape.pop()
    return f"{entry.dtype} {shape}"


def structure_of(entries: Mapping[str, Entry]) -> str:
    """Returns the checksum of all keys, dtypes and shapes, in whatever order the tensors lie."""
    return crc("\n".join(f"{key} {form(entry)}" for key, entry in sorted(entries.items())))


def tensors_of(
    entries: Mapping[str, Entry], payload: bytes | bytearray | memoryview
) -> dict[str, str]:
    """Returns the checksum of each tensor's dtype, shape and bytes, by key, keys sorted."""
    view = memoryview(payload)
    return {
        key: f"{zlib.crc32(view[entry.start : entry.end], zlib.crc32(form(entry).encode())):08x}"
        for key, entry in sorted(entries.items())
    }


def written(
    entries: Mapping[str, Entry],
    payload: bytes | memoryview,
    digest: str,
    metadata: Mapping[str, str],
) -> str:
    """Returns the value of `lora2.checks` for a new file: JSON, after a checksum of that JSON.

    digest: the payload's SHA-256. metadata: all of the file's other entries but the seal.
    """
    rows = json.loads(metadata.get(ROWS, "[]"))
    parts = {
        "structure": structure_of(entries),
        "payload": digest[:DIGITS],
        "tensors": "".join(tensors_of(entries, payload).values()),
        "rows": "".join(map(row_crc, rows)),
        "entries": {k: crc(v) for k, v in sorted(metadata.items()) if k != ROWS},
    }
    text = json.dumps(parts, separators=(",", ":"))
    return crc(text) + text


def read_checksums(metadata: Mapping[str, str]) -> Checksums | None:
    """Returns the checksums in a file's metadata; None where there are none, or where they were
    changed too.
    """
    value = metadata.get(KEY, "")
    own, text = value[:LENGTH], value[LENGTH:]
    if own != crc(text):
        return None
    try:
        parts = json.loads(text)
        tensors, rows = (tuple(split(parts[key])) for key in ("tensors", "rows"))
        return Checksums(
            str(parts["structure"]), str(parts["payload"]), tensors, frozenset(rows),
            {str(k): str(v) for k, v in parts["entries"].items()},
        )  # fmt: skip
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
        return None


def split(text: str) -> Iterable[str]:
    """Returns the checksums of a text that joins them without a separator."""
    return (text[i : i + LENGTH] for i in range(0, len(text), LENGTH))
