"""Reads .safetensors strictly, with every field checked, and without the parser of the host.

The file isn't mapped into memory: a mapped file that changes meanwhile can end the process. A file
has three parts. First come 8 bytes with the length of the header. The header is JSON: tensor ->
dtype, shape, data_offsets; `__metadata__` -> texts. The payload is covered by the tensors without a
gap or an overlap. A file that would cost too much is refused first: reading takes about twice the
file's size in memory, and a few seconds. Format: https://github.com/huggingface/safetensors#format
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
# bytes of an adapter's header: tags and pictures may be in its metadata
LONGEST_HEADER = 64_000_000
# bytes of a header that is always read: ten times the tensors of the largest known adapter. A
# longer one is read where parsing it stays within twice the file and MEMORY: it takes four times
# its bytes for ASCII, else up to thirteen, since Python stores a text by its widest character
SHORT_HEADER, ASCII_COST, WIDE_COST, MEMORY = 8_000_000, 4, 13, 64_000_000
# brackets, colons and commas of a header, and its quotes: each allows some 40,000 tensors
MOST_MARKS, MOST_QUOTES = 500_000, 400_000
MOST_DIMENSIONS = 8  # of a shape: twice those of a convolution's kernel
LONGEST_SHOWN = 120  # characters of a name in a sentence
MOST_NUMBERS = 2**40  # in a tensor, empty dimensions counted as 1: terabytes, more than any memory
LONGEST_NUMBER = 19  # digits: more than any offset needs, and quick to read
DTYPES = {
    "BOOL": torch.bool, "U8": torch.uint8, "I8": torch.int8, "I16": torch.int16,
    "I32": torch.int32, "I64": torch.int64, "F16": torch.float16, "BF16": torch.bfloat16,
    "F32": torch.float32, "F64": torch.float64, "F8_E4M3": torch.float8_e4m3fn,
    "F8_E5M2": torch.float8_e5m2,
}  # fmt: skip


def shown(name: object) -> str:
    """Returns a name from a file as a sentence can hold it: short, on one line, and escaped where
    a character can't be printed or changes the direction of the text.
    """
    text = name if isinstance(name, str) and name.isprintable() else ascii(name)
    return text if len(text) <= LONGEST_SHOWN else f"{text[: LONGEST_SHOWN - 3]}..."


@dataclass(frozen=True)
class Entry:
    """A tensor's entry in the header: its values are the bytes `start` to `end` of the payload."""

    dtype: torch.dtype
    shape: tuple[int, ...]
    start: int
    end: int

    def tensor(self, payload: bytearray) -> Tensor:
        """Returns the tensor. It shares the payload's memory where its bytes are aligned there."""
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
    """A file's header, checked against the file's size.

    name: of the file, for sentences. raw: all bytes before the payload. entries: by tensor.
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
    """Returns the header and the payload of a file; the tensors will share the payload's memory.

    accept: gets the header before the payload is read, and raises ValueError to refuse the file.
    longest: bytes that the header may have. ValueError in one sentence that names the file; OSError
    from the disk.
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
    """Returns the header of a file, without the payload; raises what `read` raises."""
    name = shown(path.name)
    with opened(path, name) as file:
        return header_of(file, name, longest)


def read_some(
    path: Path, choose: Callable[[Header], Iterable[str]]
) -> tuple[Header, dict[str, Tensor]]:
    """Returns the header and some of the tensors; the rest of the payload isn't read.

    choose: gets the header and returns the keys of those tensors. Raises what `read` raises.
    """
    name, tensors = shown(path.name), {}
    with opened(path, name) as file:
        header = header_of(file, name, LONGEST_HEADER)
        for key in choose(header):
            entry = header.entries[key]
            file.seek(len(header.raw) + entry.start)
            values = bytearray(file.read(entry.end - entry.start))
            if len(values) < entry.end - entry.start:
                raise ValueError(f"{name} changed while it was read: try again.")
            tensors[key] = replace(entry, start=0, end=len(values)).tensor(values)
    return header, tensors


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
    """Returns the checked header of a file; ValueError in one sentence that names the file.

    raw: the bytes before the payload. size: bytes of the file.
    """
    cost = len(raw) * (ASCII_COST if raw[8:].isascii() else WIDE_COST)
    if len(raw) > SHORT_HEADER + 8 and cost > 2 * size + MEMORY:
        raise ValueError(
            f"{name} has a header of {len(raw)} bytes, too many to be read in a file of {size}."
        )
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
    """Returns the JSON object of a header. ValueError for other text, and before parsing for text
    that would take too much memory.
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
        return json.loads(text.decode(), object_pairs_hook=without_doubles, parse_int=integer)
    except RecursionError as error:
        raise ValueError("it is nested too deeply") from error
    except (UnicodeDecodeError, UnicodeEncodeError) as error:
        raise ValueError(f"it is no UTF-8 text: {error.reason}") from error


def without_doubles(pairs: list[tuple[str, object]]) -> dict:
    """Returns an object of the JSON from its pairs; ValueError for a key that stands twice, and for
    text that can't be encoded again.
    """
    table = dict(pairs)
    if len(table) < len(pairs):
        double = Counter(key for key, _ in pairs).most_common(1)[0][0]
        raise ValueError(f"{shown(double)} stands there twice")
    for key, value in pairs:
        for text in (key, value):
            if isinstance(text, str) and not text.isascii():
                text.encode()  # fails for half a character, such as \ud800
    return table


def integer(digits: str) -> float:
    """Returns an integer of the JSON; infinity for one so long that Python would take long."""
    return int(digits) if len(digits) <= LONGEST_NUMBER else math.inf


def entry_of(key: str, value: object) -> Entry:
    """Returns the entry of a tensor; ValueError unless every field is sound."""
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
    """Returns whether a JSON value is a list of integers from 0 on."""
    return isinstance(value, list) and all(type(n) is int and n >= 0 for n in value)


def check_cover(entries: Mapping[str, Entry], size: int) -> None:
    """Raises ValueError unless each byte of the payload belongs to exactly one tensor.

    size: bytes of the payload.
    """
    covered = 0
    for key, entry in sorted(entries.items(), key=lambda pair: (pair[1].start, pair[1].end)):
        if entry.start != covered:
            fault = "overlaps another tensor" if entry.start < covered else "leaves a gap before it"
            raise ValueError(f"{shown(key)} {fault}")
        covered = entry.end
    if covered != size:
        raise ValueError(f"its tensors take {covered} bytes, but {size} follow it")
