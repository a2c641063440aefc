"""The reader follows the format to the letter, and says in one sentence what doesn't."""

import json
import os
import struct
import time
import tracemalloc
from pathlib import Path

import pytest
import safetensors.torch
import torch

from lora2_core.files import tensor_file
from lora2_core.files.tensor_file import (
    DTYPES,
    LONGEST_HEADER,
    opened,
    read,
    read_header,
    read_some,
    shown,
)
from tests.tiers import fast

ENTRY = {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}
OTHER = {"dtype": "F32", "shape": [2], "data_offsets": [8, 16]}


def write(path: Path, header: object, payload: bytes = bytes(16)) -> Path:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text + payload)
    return path


def refused(path: Path, *words: str) -> None:
    with pytest.raises(ValueError) as caught:
        read(path)
    message = str(caught.value)
    assert message.startswith(shown(path.name)) and message.endswith(".") and "\n" not in message
    for word in words:
        assert word in message, message


@pytest.mark.parametrize("dtype", DTYPES.values(), ids=str)
@pytest.mark.parametrize("shape", [(), (3,), (2, 0, 5), (2, 3, 1, 4)], ids=str)
def test_every_kind_of_number_reads_as_safetensors_reads_it(dtype, shape, tmp_path: Path):
    bits = torch.randint(0, 256, (1000,), dtype=torch.uint8)
    if dtype is torch.bool:
        bits = bits % 2
    values = bits[: dtype.itemsize * max(1, torch.Size(shape).numel())]
    tensor = values.view(dtype)[: torch.Size(shape).numel()].reshape(shape)
    tensors = {"a": tensor, "odd": torch.ones(3, dtype=torch.uint8)}
    path = tmp_path / "a.safetensors"
    safetensors.torch.save_file(tensors, path, {"über": '✓\n"\\'})
    header, payload = read(path)
    assert header.metadata == {"über": '✓\n"\\'} == read_header(path).metadata
    found = header.tensors(payload)
    assert set(found) == set(tensors)
    for key, wanted in safetensors.torch.load_file(path).items():
        assert found[key].dtype == wanted.dtype and found[key].shape == wanted.shape
        assert torch.equal(
            found[key].reshape(-1).view(torch.uint8), wanted.reshape(-1).view(torch.uint8)
        )


def test_unaligned_values_are_read(tmp_path: Path):
    header = {"a": {"dtype": "U8", "shape": [1], "data_offsets": [0, 1]},
              "b": {"dtype": "F32", "shape": [2], "data_offsets": [1, 9]}}  # fmt: skip
    path = write(tmp_path / "a", header, b"\7" + struct.pack("<ff", 1.5, -2))
    header, payload = read(path)
    assert header.tensors(payload)["b"].tolist() == [1.5, -2.0]


FAULTS = {
    "no braces": (b"[]", "braces"),
    "byte order mark": (b"\xef\xbb\xbf{}", "braces"),
    "text after it": (b'{"a":{}}x', "braces"),
    "newline after it": (b"{}\n", "braces"),
    "two objects": (b"{}{}", "Extra data"),
    "no colon": (b'{"a"}', "delimiter"),
    "comment": (b'{/* */"a":1}', "property name"),
    "nan": (b'{"a":{"dtype":"F32","shape":[NaN],"data_offsets":[0,8]}}', "a has shape [nan]"),
    "float": ({"a": ENTRY | {"shape": [2.0]}, "b": OTHER}, "a has shape [2.0]"),
    "long number": ({"a": ENTRY | {"shape": [10**4000]}, "b": OTHER}, "a has shape [inf]"),
    "control character": (b'{"a\x01":1}', "control character"),
    "half a character": (rb'{"__metadata__":{"a":"\ud800"}}', "surrogates"),
    "no utf-8": (b'{"\xff":1}', "UTF-8"),
    "double key": (b'{"a":{},"a":{}}', "a stands there twice"),
    "double metadata": (b'{"__metadata__":{"k":"1","k":"2"}}', "k stands there twice"),
    "double field": (b'{"a":{"dtype":"F32","dtype":"F16"}}', "dtype stands there twice"),
    "metadata list": ({"__metadata__": []}, "__metadata__"),
    "metadata number": ({"__metadata__": {"a": 1}}, "the metadata a"),
    "more fields": ({"a": ENTRY | {"strides": [1]}, "b": OTHER}, "a has other fields"),
    "fewer fields": ({"a": {"dtype": "F32"}}, "a has other fields"),
    "null": ({"a": None}, "a has other fields"),
    "unknown dtype": ({"a": ENTRY | {"dtype": "F33"}, "b": OTHER}, "a has dtype F33"),
    "dtype that torch lacks": (
        {"a": ENTRY | {"dtype": "F8_E8M0"}, "b": OTHER}, "a has dtype F8_E8M0",
    ),
    "lower case dtype": ({"a": ENTRY | {"dtype": "f32"}, "b": OTHER}, "a has dtype f32"),
    "dtype list": ({"a": ENTRY | {"dtype": []}, "b": OTHER}, "a has dtype []"),
    "negative size": ({"a": ENTRY | {"shape": [-2]}, "b": OTHER}, "a has shape [-2]"),
    "true as a size": ({"a": ENTRY | {"shape": [True, 2]}, "b": OTHER}, "a has shape"),
    "text as a size": ({"a": ENTRY | {"shape": ["2"]}, "b": OTHER}, "a has shape"),
    "nine dimensions": ({"a": ENTRY | {"shape": [1] * 8 + [2]}, "b": OTHER}, "a has shape"),
    "absurd size": ({"a": ENTRY | {"shape": [2**60, 4]}, "b": OTHER}, "too large"),
    "absurd empty": ({"a": ENTRY | {"shape": [0, 2**60]}, "b": OTHER}, "too large"),
    "other size": ({"a": ENTRY | {"shape": [3]}, "b": OTHER}, "a has 8 bytes for F32"),
    "three offsets": ({"a": ENTRY | {"data_offsets": [0, 8, 8]}, "b": OTHER}, "a has data_offsets"),
    "backwards": ({"a": ENTRY | {"data_offsets": [8, 0]}, "b": OTHER}, "a has -8 bytes"),
    "overlap": ({"a": ENTRY, "b": ENTRY, "c": OTHER}, "overlaps"),
    "hole": ({"b": OTHER}, "gap"),
    "bytes after": ({"a": ENTRY}, "take 8 bytes, but 16 follow"),
    "beyond": ({"a": ENTRY, "b": OTHER, "c": ENTRY | {"data_offsets": [16, 24]}}, "24 bytes"),
    "deep": (b'{"a":' + b"[" * 100_000 + b"]" * 100_000 + b"}", "deeply"),
    "wide": (b'{"a":[' + b"[]," * 300_000 + b"[]]}", "too many entries"),
    "many keys": (b"{" + b",".join(b'"%d":""' % i for i in range(300_000)) + b"}", "too many"),
    "open string": (b'{"' + rb"\"" * 200_000 + b"}", "Unterminated"),
    "quotes": (b"{" + b'"' * 2_000_000 + b"}", "too many entries"),
}  # fmt: skip


@pytest.mark.parametrize("fault", FAULTS)
def test_what_is_not_to_the_letter_is_refused(fault: str, tmp_path: Path):
    header, word = FAULTS[fault]
    path = write(tmp_path / "bad.safetensors", header)
    started = time.perf_counter()
    refused(path, word)
    assert time.perf_counter() - started < 2
    with pytest.raises(ValueError, match="damaged header"):
        read_header(path)


@pytest.mark.parametrize("length", [17, LONGEST_HEADER + 1, 2**63, 2**64 - 1])
def test_a_header_longer_than_the_file_or_the_limit_takes_no_memory(length: int, tmp_path: Path):
    path = tmp_path / "a.safetensors"
    with open(path, "wb") as file:
        file.write(struct.pack("<Q", length) + b"{}")
        file.truncate(24 if length == 17 else LONGEST_HEADER + 100)  # a hole: no space on the disk
    tracemalloc.start()
    refused(path)
    assert tracemalloc.get_traced_memory()[1] < 2**20
    tracemalloc.stop()


@pytest.mark.parametrize(
    "filler", fast([b"[", b" ", b"{", b'"', b"\\", b",", b"9", "𝄞".encode(), b'"\\'], b"[", b'"')
)
def test_no_header_takes_more_than_twice_the_file_and_64_mb(filler: bytes, tmp_path: Path):
    text = b'{"a":' + filler * ((LONGEST_HEADER - 10) // len(filler)) + b"}"
    path = write(tmp_path / "a.safetensors", text)
    tracemalloc.start()
    started = time.perf_counter()
    refused(path)
    seconds, most = time.perf_counter() - started, tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert most <= 2 * path.stat().st_size + 64e6 and seconds < 8  # tracing makes it slower


def test_the_payload_is_not_read_before_the_header_is_accepted(tmp_path: Path):
    header = {"a": {"dtype": "U8", "shape": [2**32], "data_offsets": [0, 2**32]}}
    path = write(tmp_path / "a.safetensors", header, b"")
    with open(path, "r+b") as file:
        file.truncate(path.stat().st_size + 2**32)  # a hole: no space on the disk

    def no(header):
        raise ValueError(f"{header.name} has {len(header.entries)}: no.")

    tracemalloc.start()
    with pytest.raises(ValueError, match="a.safetensors has 1: no."):
        read(path, no)
    assert tracemalloc.get_traced_memory()[1] < 2**20
    tracemalloc.stop()


def test_a_file_that_changes_while_it_is_read_is_an_error(tmp_path: Path):
    """Mapped into memory, it would end the process (SIGBUS)."""
    header = {"a": {"dtype": "U8", "shape": [10**6], "data_offsets": [0, 10**6]}}
    for more in (-1, 1):
        path = write(tmp_path / "a.safetensors", header, bytes(10**6))
        with pytest.raises(ValueError, match="changed while it was read"):
            read(path, lambda _, path=path, n=more: os.truncate(path, path.stat().st_size + n))


def test_what_is_no_file_is_refused_at_once(tmp_path: Path):
    refused(tmp_path, "no file")
    if hasattr(os, "mkfifo"):
        os.mkfifo(tmp_path / "pipe")
        refused(tmp_path / "pipe", "no file")


def test_names_are_shown_on_one_line():
    assert shown("lora_unet_ü") == "lora_unet_ü"
    assert shown("a\nb") == r"'a\nb'" and "\u202e" not in shown("a\u202eb")
    assert len(shown("x" * 10_000)) == 120


def test_some_tensors_are_read_without_the_others(tmp_path: Path):
    wanted = {name: torch.rand(300, 50) for name in "abc"}
    path = tmp_path / "some"
    safetensors.torch.save_file(wanted, path)
    header, found = read_some(path, lambda header: ["c", "a"])
    assert header == read_header(path) and list(found) == ["c", "a"]
    assert all(torch.equal(found[name], wanted[name]) for name in found)

    def cut(header) -> list[str]:
        path.write_bytes(path.read_bytes()[:-4])
        return ["c"]

    with pytest.raises(ValueError, match="changed while it was read"):
        read_some(path, cut)


@pytest.mark.parametrize(
    "reader", [read, read_header, lambda path: read_some(path, lambda header: ["a"])]
)
def test_a_file_that_is_replaced_as_it_is_opened_is_read_as_one_of_the_two(
    reader, tmp_path: Path, monkeypatch
):
    path = tmp_path / "a"
    safetensors.torch.save_file({"a": torch.ones(3)}, path)

    def opened_then_replaced(*args):
        file = opened(*args)
        safetensors.torch.save_file({"a": torch.zeros(99)}, tmp_path / "b")
        os.replace(tmp_path / "b", path)
        return file

    monkeypatch.setattr(tensor_file, "opened", opened_then_replaced)
    found = reader(path)
    header = found if isinstance(found, tensor_file.Header) else found[0]
    assert header.entries["a"].shape == (3,)


@pytest.mark.parametrize(("character", "megabytes", "payload"), [("a", 20, 30), ("\\n", 20, 30)])
def test_a_long_header_is_read_within_twice_the_file_and_64_mb(
    character, megabytes, payload, tmp_path
):
    """Tags and pictures in the metadata."""
    table = {"__metadata__": {"tags": character * (megabytes * 10**6 // len(character))}}
    size = payload * 10**6
    table["a"] = {"dtype": "U8", "shape": [size], "data_offsets": [0, size]}
    path = write(tmp_path / "a.safetensors", table, bytes(size))
    tracemalloc.start()
    header, _ = read(path)
    most = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert (
        set(header.metadata["tags"]) == {character[-1]} if len(character) == 1 else header.metadata
    )
    assert most <= 2 * path.stat().st_size + 64e6


def test_a_header_that_would_cost_too_much_is_refused_unparsed(tmp_path: Path):
    for character in ("a", "\U0001d11e"):
        table = {"__metadata__": {"tags": character * 9_000_000}}
        text = json.dumps(table, ensure_ascii=False).encode()
        path = write(tmp_path / "a.safetensors", text + b" " * (50_000_000 - len(text)))
        refused(path, "too many to be read in a file of")
