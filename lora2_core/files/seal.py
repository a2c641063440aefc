"""A hash of a file's header inside the header, so that no bit of it can change unseen.

The header also holds the payload's hash, in `sshs_model_hash`, so the seal covers the whole file.
It is the SHA-256 of all bytes before the payload, taken with 64 zeros where the seal itself stands.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping

KEY = "lora2.seal"
EMPTY = "0" * 64
_SEAL = re.compile(rb'"lora2\.seal":"([0-9a-f]{64})"')


def payload_of(data: bytes) -> memoryview:
    """Returns the bytes of a file after its header."""
    return memoryview(data)[8 + int.from_bytes(data[:8], "little") :]


def seal_of(raw: bytes, span: slice) -> str:
    """Returns the right seal of a file.

    raw: the bytes before the payload. span: where the seal stands in them.
    """
    return hashlib.sha256(raw[: span.start] + EMPTY.encode() + raw[span.stop :]).hexdigest()


def span_of(raw: bytes) -> slice:
    """Returns where the seal stands; ValueError unless it stands exactly once."""
    spans = [match.span(1) for match in _SEAL.finditer(raw)]
    if len(spans) != 1:
        raise ValueError("it has no seal, or more than one")
    return slice(*spans[0])


def sealed(data: bytes) -> bytes:
    """Returns the bytes of a file with the right seal in place of the EMPTY one."""
    raw = data[: len(data) - len(payload_of(data))]
    span = span_of(raw)
    return data[: span.start] + seal_of(raw, span).encode() + data[span.stop :]


def seal_holds(raw: bytes, metadata: Mapping[str, str]) -> bool:
    """Returns whether the header is as it was written; files of version 1 have no seal and are
    believed.
    """
    if KEY not in metadata and metadata.get("lora2.version") == "1":
        return True
    try:
        span = span_of(raw)
    except ValueError:
        return False
    return "sshs_model_hash" in metadata and raw[span].decode() == seal_of(raw, span)
