"""Checksums of a file's parts inside its own header. They tell what another program changed, and
an edit from damage; a hash of the whole says only that something differs.
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
SHORT = 16  # hex digits of the payload's SHA-256 that are kept


@dataclass(frozen=True)
class Checksums:
    """Of a file as it was written. structure: of the keys, kinds of numbers and shapes. payload:
    the first digits of its SHA-256. tensors: of each tensor, by sorted key. rows: of each row of
    lora2.layers. entries: of every other entry of the metadata, by key.
    """

    structure: str
    payload: str
    tensors: tuple[str, ...]
    rows: frozenset[str]
    entries: Mapping[str, str]

    def changed_entries(self, metadata: Mapping[str, str]) -> list[str]:
        """What differs in the metadata, as `changed x`, `new y` or `gone z`."""
        now = {k: v for k, v in metadata.items() if k not in (KEY, SEAL, ROWS)}
        changed = [k for k, v in now.items() if k in self.entries and not self.entry_fits(k, v)]
        found = {
            "changed": changed, "new": now.keys() - self.entries, "gone": self.entries - now.keys(),
        }  # fmt: skip
        return [f"{what} {key}" for what, keys in found.items() for key in sorted(keys)]

    def entry_fits(self, key: str, value: str) -> bool:
        """Whether an entry of the metadata is as it was written."""
        return self.entries.get(key) == crc(value)


def crc(text: str) -> str:
    """CRC-32 as eight hex digits: no flipped bit escapes it."""
    return f"{zlib.crc32(text.encode()):08x}"


def row_crc(row: object) -> str:
    """Of a row of lora2.layers, however the list around it is spaced."""
    return crc(json.dumps(row, separators=(",", ":")))


def form(entry: Entry) -> str:
    """Kind of numbers and shape, without the ones at its end, which some programs drop or add."""
    shape = list(entry.shape)
    while shape and shape[-1] == 1:
        shape.pop()
    return f"{entry.dtype} {shape}"


def structure_of(entries: Mapping[str, Entry]) -> str:
    """A checksum of keys, kinds of numbers and shapes; the tensors' order is left out."""
    return crc("\n".join(f"{key} {form(entry)}" for key, entry in sorted(entries.items())))


def tensors_of(
    entries: Mapping[str, Entry], payload: bytes | bytearray | memoryview
) -> dict[str, str]:
    """A checksum of form and bytes of each tensor, by sorted key."""
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
    """The value of `lora2.checks`: a checksum of the rest, and the rest as JSON."""
    rows = json.loads(metadata.get(ROWS, "[]"))
    parts = {
        "structure": structure_of(entries),
        "payload": digest[:SHORT],
        "tensors": "".join(tensors_of(entries, payload).values()),
        "rows": "".join(map(row_crc, rows)),
        "entries": {k: crc(v) for k, v in sorted(metadata.items()) if k != ROWS},
    }
    text = json.dumps(parts, separators=(",", ":"))
    return crc(text) + text


def read_checksums(metadata: Mapping[str, str]) -> Checksums | None:
    """What the file says of itself; None where it says nothing, or that was changed too."""
    value = metadata.get(KEY, "")
    if value[:8] != crc(value[8:]):
        return None
    try:
        parts = json.loads(value[8:])
        tensors, rows = (tuple(eights(parts[key])) for key in ("tensors", "rows"))
        return Checksums(
            str(parts["structure"]), str(parts["payload"]), tensors, frozenset(rows),
            {str(k): str(v) for k, v in parts["entries"].items()},
        )  # fmt: skip
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
        return None


def eights(text: str) -> Iterable[str]:
    """Eight characters at a time."""
    return (text[i : i + 8] for i in range(0, len(text), 8))
