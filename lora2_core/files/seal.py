"""A hash of a file's header inside the header, so that no bit of it can change unseen.

The header holds the payload's hash in `sshs_model_hash`, so the seal covers the whole file. It is
the SHA-256 of all bytes before the payload, taken with 64 zeros in its own place.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping

KEY = "lora2.seal"
EMPTY = "0" * 64
_SEAL = re.compile(rb'"lora2\.seal":"([0-9a-f]{64})"')


def payload_of(data: bytes) -> memoryview:
    """Returns what follows the header."""
    return memoryview(data)[8 + int.from_bytes(data[:8], "little") :]


def seal_of(raw: bytes, place: slice) -> str:
    """Returns the seal of the bytes before the payload."""
    return hashlib.sha256(raw[: place.start] + EMPTY.encode() + raw[place.stop :]).hexdigest()


def place_of(raw: bytes) -> slice:
    """Returns where the seal stands; ValueError unless it stands in one place."""
    found = [match.span(1) for match in _SEAL.finditer(raw)]
    if len(found) != 1:
        raise ValueError("it has no seal, or more than one")
    return slice(*found[0])


def sealed(data: bytes) -> bytes:
    """Returns a file that was written with an EMPTY seal in its metadata, with the right one."""
    raw = data[: len(data) - len(payload_of(data))]
    place = place_of(raw)
    return data[: place.start] + seal_of(raw, place).encode() + data[place.stop :]


def header_is_whole(raw: bytes, metadata: Mapping[str, str]) -> bool:
    """Returns whether the seal is right; files of version 1 have none."""
    if KEY not in metadata and metadata.get("lora2.version") == "1":
        return True
    try:
        place = place_of(raw)
    except ValueError:
        return False
    return "sshs_model_hash" in metadata and raw[place].decode() == seal_of(raw, place)
