"""Reading .safetensors by the letter of the format, without the host's parser and without mapping
the file into memory, so that a file that changes meanwhile can't end the process.

A file is 8 bytes with the header's length, the header (JSON: tensor -> dtype, shape, data_offsets;
`__metadata__` -> strings), and the payload, which the tensors cover without gap or overlap. What
reading costs is bounded before it is spent: about twice the file's size, and a few seconds.
Format: https://github.com/huggingface/safetensors#format
"""

from __future__ import annotations

import json
import math
import os
import re
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from io import BufferedReader
from pathlib import Path

import torch
from torch import Tensor

METADATA = "__metadata__"
FIELDS = {"dtype", "shape", "data_offsets"}
LONGEST_HEADER = 8_000_000  # bytes, of an adapter: ten times what the largest known need
# of a header: brackets, colons and commas; quotes. Either is some 40,000 tensors.
MOST_MARKS, MOST_QUOTES = 500_000, 400_000
MOST_DIMENSIONS = 8
LONGEST_SHOWN = 120  # characters of a name in a sentence
MOST_NUMBERS = 2**40  # of a shape, whose empty dimensions count as 1
DTYPES = {
    "BOOL": torch.bool, "U8": torch.uint8, "I8": torch.int8, "I16": torch.int16,
    "I32": torch.int32, "I64": torch.int64, "F16": torch.float16, "BF16": torch.bfloat16,
    "F32": torch.float32, "F64": torch.float64, "F8_E4M3": torch.float8_e4m3fn,
    "F8_E5M2": torch.float8_e5m2,
}  # fmt: skip


def shown(name: object) -> str:
    """Returns a name from a file in a sentence: on one line, without characters that turn the
    text.
    """
    text = name if isinstance(name, str) and name.isprintable() else ascii(name)
    return text if len(text) <= LONGEST_SHOWN else f"{text[: LONGEST_SHOWN - 3]}..."


@dataclass(frozen=True)
class Entry:
    """Where a tensor lies: bytes `start` to `end` of the payload."""

    dtype: torch.dtype
    shape: tuple[int, ...]
    start: int
    end: int

    def tensor(self, payload: bytearray) -> Tensor:
        """Returns the values, in the payload's memory where that is aligned for them."""
        if self.start == self.end:
            return torch.empty(self.shape, dtype=self.dtype)
        start = self.start
        if start % self.dtype.itemsize:
            payload, start = payload[start : self.end], 0
        count = math.prod(self.shape)
        flat = torch.frombuffer(payload, dtype=self.dtype, count=count, offset=start)
        return flat.view(self.shape)


@dataclass(frozen=True)
class Header:
    """What a file says of itself, checked against its size. `raw`: its first bytes, up to the
    payload.
    """

    name: str
    raw: bytes
    metadata: Mapping[str, str]
    entries: Mapping[str, Entry]

    def tensors(self, payload: bytearray) -> dict[str, Tensor]:
        """Returns all tensors, in the order of the header."""
        return {key: entry.tensor(payload) for key, entry in self.entries.items()}


def read(
    path: Path,
    accept: Callable[[Header], object] = lambda header: None,
    *,
    longest: int = LONGEST_HEADER,
) -> tuple[Header, bytearray]:
    """Returns the header of a file, and the payload, whose memory the tensors will share.

    accept: sees the header before the payload is read, and raises ValueError to refuse it. longest:
    bytes that the header may have. ValueError in one sentence that names the file, OSError from the
    disk.
    """
    name = shown(path.name)
    with opened(path, name) as file:
        header = header_of(file, name, longest)
        accept(header)
        payload = bytearray(max((entry.end for entry in header.entries.values()), default=0))
        if file.readinto(payload) != len(payload) or file.read(1):
            raise ValueError(f"{name} changed while it was read: try again.")
    return header, payload


def read_header(path: Path, *, longest: int = LONGEST_HEADER) -> Header:
    """Returns the header alone; errors as `read`."""
    name = shown(path.name)
    with opened(path, name) as file:
        return header_of(file, name, longest)


def read_some(
    path: Path, choose: Callable[[Header], Iterable[str]]
) -> tuple[Header, dict[str, Tensor]]:
    """Returns the header, and the tensors that are chosen by it, without the rest of the payload;
    errors as `read`.
    """
    name, found = shown(path.name), {}
    with opened(path, name) as file:
        header = header_of(file, name, LONGEST_HEADER)
        for key in choose(header):
            entry = header.entries[key]
            file.seek(len(header.raw) + entry.start)
            values = bytearray(file.read(entry.end - entry.start))
            if len(values) < entry.end - entry.start:
                raise ValueError(f"{name} changed while it was read: try again.")
            found[key] = replace(entry, start=0, end=len(values)).tensor(values)
    return header, found


def opened(path: Path, name: str) -> BufferedReader:
    """Returns a regular file to read: a pipe or a device would never end."""
    if not path.is_file():
        path.stat()  # says why when it can't be reached
        raise ValueError(f"{name} is no file that can be read.")
    return open(path, "rb")


def header_of(file: BufferedReader, name: str, longest: int) -> Header:
    """Returns the header of a file that was just opened, whose name may no longer mean it."""
    size = os.fstat(file.fileno()).st_size
    return parse(first_bytes(file, size, name, longest), size, name)


def first_bytes(file: BufferedReader, size: int, name: str, longest: int) -> bytes:
    """Returns length and header, once the length is known to be possible."""
    start = file.read(8)
    length = int.from_bytes(start, "little")
    if len(start) < 8 or length > size - 8:
        raise ValueError(f"{name} is no safetensors file or is cut off: {size} bytes.")
    if length > longest:
        raise ValueError(
            f"{name} has a header of {length} bytes, more than the {longest} that are read."
        )
    raw = start + file.read(length)
    if len(raw) < 8 + length:
        raise ValueError(f"{name} changed while it was read: try again.")
    return raw


def parse(raw: bytes, size: int, name: str) -> Header:
    """Returns the header of a file of `size` bytes; ValueError in one sentence that names it."""
    try:
        table = table_of(raw[8:])
        metadata = table.pop(METADATA, {})
        if not isinstance(metadata, dict):
            raise ValueError(f"{METADATA} is no object")
        for key, value in metadata.items():
            if not isinstance(value, str):
                raise ValueError(f"the metadata {shown(key)} is no text")
        entries = {key: entry_of(key, value) for key, value in table.items()}
        check_cover(entries, size - len(raw))
    except ValueError as error:
        raise ValueError(f"{name} has a damaged header ({error}).") from error
    return Header(name, raw, metadata, entries)


def table_of(text: bytes) -> dict:
    """Returns the header's JSON, refused before it is parsed where it would take too much
    memory.
    """
    if not (text.startswith(b"{") and text.rstrip(b" ").endswith(b"}")):
        raise ValueError("it is no object in braces")
    unescaped = text.replace(rb"\\", b"").replace(rb"\"", b"")
    if unescaped.count(b'"') <= MOST_QUOTES:
        unescaped = re.sub(rb'"[^"]*"', b"", unescaped)  # what stands outside of strings
    if sum(map(unescaped.count, (b"{", b"[", b":", b",", b'"'))) > MOST_MARKS:
        raise ValueError("it has too many entries")
    del unescaped
    try:
        return json.loads(text.decode(), object_pairs_hook=without_doubles, parse_int=whole)
    except RecursionError as error:
        raise ValueError("it is nested too deeply") from error
    except (UnicodeDecodeError, UnicodeEncodeError) as error:
        raise ValueError(f"it is no UTF-8 text: {error.reason}") from error


def without_doubles(pairs: list[tuple[str, object]]) -> dict:
    """Returns an object of the JSON, whose keys must differ and be text that can be written
    again.
    """
    table = dict(pairs)
    if len(table) < len(pairs):
        double = Counter(key for key, _ in pairs).most_common(1)[0][0]
        raise ValueError(f"{shown(double)} stands there twice")
    for key, value in pairs:
        for text in (key, value):
            if isinstance(text, str) and not text.isascii():
                text.encode()  # half a character, as \ud800 is, can't be
    return table


def whole(digits: str) -> float:
    """Returns a whole number; infinity for those of a length that takes Python long to read."""
    return int(digits) if len(digits) <= 19 else math.inf


def entry_of(key: str, value: object) -> Entry:
    """Returns a tensor's entry, every field checked."""
    name = shown(key)
    if not isinstance(value, dict) or set(value) != FIELDS:
        raise ValueError(f"{name} has other fields than {', '.join(sorted(FIELDS))}")
    dtype, shape, offsets = value["dtype"], value["shape"], value["data_offsets"]
    if not isinstance(dtype, str) or dtype not in DTYPES:
        raise ValueError(f"{name} has dtype {shown(dtype)}, which isn't read")
    if not (are_sizes(shape) and len(shape) <= MOST_DIMENSIONS):
        raise ValueError(f"{name} has shape {shown(shape)}, which is none")
    if math.prod(max(1, size) for size in shape) > MOST_NUMBERS:
        raise ValueError(f"{name} has shape {shown(shape)}, which is too large")
    if not (are_sizes(offsets) and len(offsets) == 2):
        raise ValueError(f"{name} has data_offsets {shown(offsets)}, which are none")
    entry = Entry(DTYPES[dtype], tuple(shape), *offsets)
    if math.prod(shape) * entry.dtype.itemsize != entry.end - entry.start:
        raise ValueError(
            f"{name} has {entry.end - entry.start} bytes for {dtype} of shape {shown(shape)}"
        )
    return entry


def are_sizes(value: object) -> bool:
    """Returns whether it is a list of whole numbers from 0 on."""
    return isinstance(value, list) and all(type(n) is int and n >= 0 for n in value)


def check_cover(entries: Mapping[str, Entry], size: int) -> None:
    """Checks that each byte of the payload belongs to one tensor."""
    place = 0
    for key, entry in sorted(entries.items(), key=lambda pair: (pair[1].start, pair[1].end)):
        if entry.start != place:
            fault = "overlaps another tensor" if entry.start < place else "leaves a gap before it"
            raise ValueError(f"{shown(key)} {fault}")
        place = entry.end
    if place != size:
        raise ValueError(f"its tensors take {place} bytes, but {size} follow it")
