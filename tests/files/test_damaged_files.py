"""A damaged file, or one that is no plain LoRA, is refused in one sentence: file, key, fault."""

import struct
from pathlib import Path

import pytest
import torch

import lora2_core as lora2
from tests.toys import foreign, random_lora


def refused(path: Path, *words: str) -> None:
    """Loading gives one sentence with the file's name, and with these words."""
    with pytest.raises(ValueError) as caught:
        lora2.load(path)
    message = str(caught.value)
    assert message.startswith(path.name)
    assert message.endswith(".") and "\n" not in message
    for word in words:
        assert word in message, message


@pytest.fixture
def good(tmp_path: Path) -> Path:
    lora2.save(tmp_path / "good.safetensors", random_lora(), dtype="fp32")
    return tmp_path / "good.safetensors"


@pytest.mark.parametrize("place", [0.2, 0.5, 0.9999])
def test_a_flipped_byte_is_found(good: Path, place: float):
    data = bytearray(good.read_bytes())
    start = 8 + struct.unpack("<Q", data[:8])[0]
    data[start + int(place * (len(data) - start))] ^= 1  # the lowest bit of one weight's byte
    good.write_bytes(data)
    refused(good, "is damaged", "hash")


@pytest.mark.parametrize("length", [0, 1, 7, 8, 9, 100, 0.3, 0.9, -1])
def test_a_cut_off_file_is_found(good: Path, length: float):
    data = good.read_bytes()
    end = int(length * len(data)) if isinstance(length, float) else length
    good.write_bytes(data[:end])
    refused(good)


@pytest.mark.parametrize(
    "data",
    [
        b"PK\x03\x04" + b"\0" * 300,
        b"\x80\x02}q\0." * 20,
        b"<html>Sign in to download</html>",
        struct.pack("<Q", 2) + b"[]",
        struct.pack("<Q", 2) + b"{}",
    ],
    ids=["zip", "pickle", "html", "list", "empty"],
)
def test_garbage_is_refused(data: bytes, tmp_path: Path):
    """Faults of the header, one by one: test_tensor_file.py."""
    (tmp_path / "x.safetensors").write_bytes(data)
    refused(tmp_path / "x.safetensors")


UP, DOWN, ALPHA = "a.lora_up.weight", "a.lora_down.weight", "a.alpha"
PAIR = {UP: torch.ones(5, 2), DOWN: torch.ones(2, 6)}
NAN, INF = float("nan"), float("inf")
FAULTS = {
    "nan": ({UP: torch.full((5, 2), NAN)}, UP, "finite"),
    "inf": ({DOWN: torch.full((2, 6), INF)}, DOWN, "finite"),
    "whole numbers": ({DOWN: torch.ones(2, 6, dtype=torch.int8)}, DOWN, "finite"),
    "alpha 0": ({ALPHA: torch.tensor(0.0)}, ALPHA, "other than 0"),
    "alpha nan": ({ALPHA: torch.tensor(NAN)}, ALPHA, "finite"),
    "two alphas": ({ALPHA: torch.ones(2)}, ALPHA, "one number"),
    "ranks differ": ({DOWN: torch.ones(3, 6)}, "a has shapes", "[5, 2]", "[3, 6]"),
    "rank above shape": (
        {UP: torch.ones(5, 6), DOWN: torch.ones(6, 6)}, "a has rank 6", "5 x 6",
    ),
    "no rank": ({UP: torch.ones(5, 0), DOWN: torch.ones(0, 6)}, "a has shapes"),
    "vectors": ({UP: torch.ones(5), DOWN: torch.ones(5)}, "a has shapes"),
    "scalar": ({UP: torch.ones(())}, "a has shapes"),
    "three dimensions": ({DOWN: torch.ones(2, 6, 1)}, "a has shapes"),
    "wide lora_up": (
        {UP: torch.ones(5, 2, 3, 3), DOWN: torch.ones(2, 6, 3, 3)}, "a has shapes",
    ),
    "up alone": ({DOWN: None}, "a has up", "no complete"),
    "down alone": ({UP: None}, "a has down", "no complete"),
    "alpha alone": ({"b.alpha": torch.tensor(1.0)}, "b has alpha", "no complete"),
    "unknown key": ({"model.weight": torch.ones(2)}, "model.weight", "not a LoRA"),
    "loha": ({"b.hada_w1_a": torch.ones(2, 2)}, "b.hada_w1_a", "not of a plain LoRA"),
    "lokr": ({"b.lokr_w1": torch.ones(2, 2)}, "b.lokr_w1", "not of a plain LoRA"),
    "dora": ({"a.dora_scale": torch.ones(5, 1)}, "a.dora_scale", "not of a plain LoRA"),
    "peft dora": (
        {"a.lora_magnitude_vector": torch.ones(5)}, "a.lora_magnitude_vector", "plain LoRA",
    ),
    "mid of a matrix": (
        {"a.lora_mid.weight": torch.ones(2, 2, 3, 3)}, "a has shapes", "lora_mid [2, 2, 3, 3]",
    ),
    "mid of another rank": (
        {"a.lora_mid.weight": torch.ones(3, 3, 3, 3), DOWN: torch.ones(2, 6, 1, 1)}, "lora_mid",
    ),
    "diff": ({"b.diff": torch.ones(2, 2)}, "b.diff", "not of a plain LoRA", "Load LoRA"),
    "diff_b": ({"b.diff_b": torch.ones(2)}, "b.diff_b", "not of a plain LoRA"),
}  # fmt: skip


@pytest.mark.parametrize("fault", FAULTS)
def test_a_faulty_file_gives_one_sentence_with_file_and_key(fault: str, tmp_path: Path):
    change, *words = FAULTS[fault]
    tensors = {k: t for k, t in (PAIR | change).items() if t is not None}
    refused(foreign(tmp_path / "bad.safetensors", tensors), *words)


def test_a_missing_file_stays_an_os_error(tmp_path: Path):
    with pytest.raises(FileNotFoundError):
        lora2.load(tmp_path / "none.safetensors")
