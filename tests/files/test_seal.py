"""A file that LoRA² wrote is read as it was written, or not at all; older files are read on."""

import random
import struct
from pathlib import Path

import pytest
import torch

import lora2_core as lora2
from lora2_core.charts.info import file_scales
from lora2_core.files.provenance import EDITED_NOTE
from lora2_core.files.seal import EMPTY, KEY
from lora2_core.training.checkpoint import decode, resume
from lora2_core.training.run import Run
from tests.reliability.adapters import flipped, seen_flip
from tests.toys import Planted, foreign, metadata_of, random_lora

GOLDEN = Path(__file__).parents[1] / "golden"


@pytest.fixture
def good(tmp_path: Path) -> Path:
    lora2.save(tmp_path / "good.safetensors", random_lora({"a": (5, 6, 2, None)}), dtype="fp16")
    return tmp_path / "good.safetensors"


@pytest.mark.parametrize("form", ["kohya", "peft", "uniform"])
def test_every_form_has_a_seal(form: str, tmp_path: Path):
    path = tmp_path / "a.safetensors"
    lora2.save(path, random_lora(), form=form)
    metadata = metadata_of(path)
    assert len(metadata[KEY]) == 64 and metadata[KEY] != EMPTY
    assert metadata["lora2.version"] == "3"
    assert lora2.load(path).ranks == random_lora().ranks


def test_every_flipped_bit_of_the_header_is_found(good: Path):
    """A tenth of all of them, from the length of the header on; nox -s fuzz takes more."""
    whole = good.read_bytes()
    header = 8 * (8 + struct.unpack("<Q", whole[:8])[0])
    for bit in random.Random(0).sample(range(header), header // 10):
        assert seen_flip(good, whole, bit), bit


def test_every_flipped_bit_of_the_payload_is_an_error(good: Path):
    whole = good.read_bytes()
    for bit in range(8 * (8 + struct.unpack("<Q", whole[:8])[0]), 8 * len(whole)):
        good.write_bytes(flipped(whole, bit))
        with pytest.raises(ValueError, match="^good.safetensors is damaged, or"):
            lora2.load(good)


def test_damage_is_told_before_what_it_did_to_the_values(good: Path):
    data = bytearray(good.read_bytes())
    data[-2:] = torch.tensor([float("nan")], dtype=torch.float16).view(torch.uint8).tolist()
    good.write_bytes(data)
    with pytest.raises(ValueError, match="good.safetensors is damaged"):
        lora2.load(good)


@pytest.mark.parametrize("old", [KEY, "lora2.version", "sshs_model_hash"])
def test_a_seal_cannot_get_lost(good: Path, old: str):
    """A header without it is read with a warning, and no payload is the worse checked for it."""
    data = good.read_bytes().replace(f'"{old}"'.encode(), f'"{old[:-1]}_"'.encode())
    good.write_bytes(data)
    assert lora2.load(good).origin.file.notes[0] == EDITED_NOTE
    good.write_bytes(flipped(data, 8 * len(data) - 3))
    with pytest.raises(ValueError, match="good.safetensors is damaged, or another program"):
        lora2.load(good)


def test_a_title_that_looks_like_a_seal_does_no_harm(tmp_path: Path):
    path = tmp_path / f'"{KEY}":"{EMPTY}".safetensors'
    lora2.save(path, random_lora())
    assert lora2.load(path).ranks == random_lora().ranks


def test_a_foreign_file_with_a_hash_of_something_else_is_read_with_a_warning(
    tmp_path: Path, caplog
):
    pair = {"a.lora_up.weight": torch.ones(5, 2), "a.lora_down.weight": torch.ones(2, 6)}
    path = foreign(tmp_path / "f.safetensors", pair, {"sshs_model_hash": "0" * 64})
    assert lora2.load(path).ranks == {"a": 2}
    assert "f.safetensors: its bytes don't match the hash" in caplog.text


def test_an_adapter_without_a_seal_is_read_on():
    lora = lora2.load(GOLDEN / "adapter-1.safetensors")
    assert lora.ranks == {"l0": 2, "l1": 6, "l2": 4}
    assert lora.origin.learned.ranks == lora.ranks and lora.singular
    assert len(lora.origin.run.history["loss"]) == 20
    norms = [layer.norm for layer in lora.layers.values()]
    assert norms == pytest.approx([0.1190299, 0.0918307, 0.1122271], rel=1e-5)


NORMS = [7.19267, 8.69481, 6.51565, 0.0]  # of the updates in adapter-2 and adapter-3


@pytest.mark.parametrize("version", [2, 3])
def test_an_adapter_of_every_version_is_read_on(version: int, caplog):
    """Version 2 has the rank as alpha, version 3 one alpha for all; the update is the same."""
    path = GOLDEN / f"adapter-{version}.safetensors"
    lora = lora2.load(path)
    assert lora.origin.file.metadata["lora2.version"] == str(version) and not caplog.text
    assert list(lora.ranks.values()) == [2, 6, 4, 0] and lora.singular
    norms = [layer.norm for layer in lora.layers.values()]
    assert norms == pytest.approx(NORMS, rel=1e-3)
    scales = file_scales(path).values()
    assert {alpha / (rank if version == 2 else 1) for alpha, rank in scales} == {
        1.0 if version == 2 else 4.0
    }


def test_its_payload_is_still_checked(tmp_path: Path):
    data = bytearray((GOLDEN / "adapter-1.safetensors").read_bytes())
    data[-1] ^= 1
    (tmp_path / "a.safetensors").write_bytes(data)
    with pytest.raises(ValueError, match="a.safetensors is damaged"):
        lora2.load(tmp_path / "a.safetensors")


def test_a_checkpoint_of_the_first_version_goes_on():
    model = Planted([1, 4, 2], width=16, noise=0.2)
    adapters = lora2.attach(model, "l", lora2.RankSettings(target_rank=4, max_rank=16))
    run = Run(adapters, lora2.TrainSettings(20, 1e-2))
    path = GOLDEN / "checkpoint-1.safetensors"
    card = resume(run, path, {"steps": 20})
    assert (card.run, card.step, len(run.losses)) == ("golden", 8, 8)
    assert decode(path)[1]["adapters"]["ranks"] == list(adapters.ranks.values())
    for step in run.steps(model.loss):
        assert step.loss > 0
    assert len(run.losses) == 20
