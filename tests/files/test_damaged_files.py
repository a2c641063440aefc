"""A damaged file, or one that is no LoRA, is refused in one sentence: file, key, fault."""

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
    "alpha true": ({ALPHA: torch.tensor(True)}, ALPHA, "finite"),
    "alpha nan": ({ALPHA: torch.tensor(NAN)}, ALPHA, "finite"),
    "two alphas": ({ALPHA: torch.ones(2)}, ALPHA, "one number"),
    "ranks differ": ({DOWN: torch.ones(3, 6)}, "a has shapes", "[5, 2]", "[3, 6]"),
    "no rank": ({UP: torch.ones(5, 0), DOWN: torch.ones(0, 6)}, "a has shapes"),
    "vectors": ({UP: torch.ones(5), DOWN: torch.ones(5)}, "a has shapes"),
    "scalar": ({UP: torch.ones(())}, "a has shapes"),
    "six dimensions": ({DOWN: torch.ones(2, 6, 1, 1, 1, 1)}, "a has shapes"),
    "wide lora_up": (
        {UP: torch.ones(5, 2, 3, 3), DOWN: torch.ones(2, 6, 3, 3)}, "a has shapes",
    ),
    "up alone": ({DOWN: None}, "a has up", "no complete"),
    "down alone": ({UP: None}, "a has down", "no complete"),
    "half a loha": ({"b.hada_w1_a": torch.ones(2, 2)}, "b has shapes hada_w1_a [2, 2]"),
    "lohas of two sizes": (
        {f"b.hada_w{n}_{x}": torch.ones(2, 2 + n * (x == "b")) for n in (1, 2) for x in "ab"},
        "b has shapes", "don't fit",
    ),
    "half a lokr": ({"b.lokr_w1": torch.ones(2, 2)}, "b has shapes lokr_w1 [2, 2]"),
    "lokr of a vector": (
        {"b.lokr_w1": torch.ones(2, 2), "b.lokr_w2": torch.ones(2)}, "b has shapes",
    ),
    "half a glora": ({"b.a1.weight": torch.ones(2, 2)}, "b has shapes"),
    "oft of one block": ({"b.oft_blocks": torch.ones(4, 4)}, "b has shapes oft_blocks [4, 4]"),
    "dora of another size": ({"a.dora_scale": torch.ones(4, 1)}, "a.dora_scale", "5 x 6"),
    "dora of a vector": ({"a.dora_scale": torch.ones(5)}, "a has shapes"),
    "dora of a nan": ({"a.dora_scale": torch.full((5, 1), NAN)}, "a.dora_scale", "finite"),
    "reshape to gigabytes": (
        {"a.reshape_weight": torch.tensor([200000, 5000])}, "a.reshape_weight", "5 x 6",
    ),
    "reshape of numbers": ({"a.reshape_weight": torch.ones(2)}, "a.reshape_weight", "whole"),
    "diff of a nan": ({"b.diff": torch.full((2, 2), INF)}, "b.diff", "finite"),
    "diff of bytes": ({"b.diff": torch.ones(2, dtype=torch.uint8)}, "b.diff", "finite"),
    "bias of a matrix": ({"b.diff_b": torch.ones(2, 2)}, "b has shapes diff_b [2, 2]"),
    "empty diff": ({"b.diff": torch.ones(0, 2)}, "b.diff", "empty"),
    "mid of a matrix": (
        {"a.lora_mid.weight": torch.ones(2, 2, 3, 3)}, "a has shapes", "lora_mid [2, 2, 3, 3]",
    ),
    "mid of another rank": (
        {"a.lora_mid.weight": torch.ones(3, 3, 3, 3), DOWN: torch.ones(2, 6, 1, 1)}, "lora_mid",
    ),
}  # fmt: skip


@pytest.mark.parametrize("fault", FAULTS)
def test_a_faulty_file_gives_one_sentence_with_file_and_key(fault: str, tmp_path: Path):
    change, *words = FAULTS[fault]
    tensors = {k: t for k, t in (PAIR | change).items() if t is not None}
    refused(foreign(tmp_path / "bad.safetensors", tensors), *words)


LEFT_OUT = {
    "alpha alone": {"b.alpha": torch.tensor(1.0)},
    "unknown key": {"model.weight": torch.ones(2)},
    "embedding": {"bundle_emb.my token.clip_l": torch.ones(2, 8)},
    "peft dora": {"a.lora_magnitude_vector": torch.ones(5)},
    "bias of PEFT": {"a.lora_B.bias": torch.ones(5)},
    "scale of nothing": {"b.dora_scale": torch.ones(5, 1)},
    "shape of nothing": {"b.reshape_weight": torch.tensor([200000, 5000])},
    "bias of no norm": {"b.b_norm": torch.ones(5)},
}


@pytest.mark.parametrize("what", LEFT_OUT)
def test_what_no_loader_reads_is_left_out_and_counted(what: str, tmp_path: Path):
    (key,) = extra = LEFT_OUT[what]
    lora = lora2.load(foreign(tmp_path / "a.safetensors", PAIR | extra))
    ((sentence, *values),) = lora.origin.file.notes
    assert values == [1, 3, key] and "left out" in sentence
    assert list(lora.layers) == ["a"] and not lora.others


def test_a_file_of_extras_alone_is_no_lora(tmp_path: Path):
    for extra in LEFT_OUT.values():
        path = foreign(tmp_path / "a.safetensors", {k: t for k, t in extra.items()})
        refused(path, next(iter(extra)), "not a LoRA file")


def test_a_missing_file_stays_an_os_error(tmp_path: Path):
    with pytest.raises(FileNotFoundError):
        lora2.load(tmp_path / "none.safetensors")
