"""Rows of lora2.layers and the origin of an adapter: what is written is what is read."""

import json
from dataclasses import replace
from pathlib import Path

import pytest

import lora2_core as lora2
from lora2_core.adapter.origin import BaseModel, Origin, RunFacts, SourceFile
from lora2_core.files.layer_row import LayerRow
from tests.files.test_edited_files import with_metadata, without_checksums
from tests.toys import random_lora

LINEAR = ["lora_unet_a", "diffusion_model.a", 6, 5, 0, 2, 0.287823, 1.0]
CONV = ["lora_unet_b", "diffusion_model.b", 4, 18, [3, 3], 1, 2.30259, 0.0]


@pytest.mark.parametrize("row", [LINEAR, CONV, LINEAR[:7]], ids=["linear", "conv", "first"])
def test_a_row_is_written_as_it_was_read(row: list):
    assert json.dumps(LayerRow.from_json(row).to_json()) == json.dumps(row)


def test_a_row_has_names():
    row = LayerRow.from_json(CONV)
    assert (row.base, row.name, row.out, row.fan_in) == tuple(CONV[:4])
    assert (row.kernel, row.rank, row.nu, row.sensitivity) == ((3, 3), 1, 2.30259, 0.0)
    assert LayerRow.from_json(LINEAR[:7]).sensitivity is None
    assert LayerRow.from_json([*LINEAR[:7], None]) is None


def test_the_origin_is_read_from_the_known_keys():
    info = {
        "settings": {"steps": 2}, "steps": 2, "base": {"version": "sd_v1", "odd": 1},
        "diffusers": {"a": "b"}, "part": "transformer", "metadata": {"ss_tag": "x"}, "odd": 1,
    }  # fmt: skip
    assert Origin.from_info(info) == Origin(
        run=RunFacts(settings={"steps": 2}, steps=2),
        base=BaseModel(version="sd_v1", diffusers={"a": "b"}, part="transformer"),
        file=SourceFile(metadata={"ss_tag": "x"}),
    )
    assert Origin.from_info({}) == Origin()


def test_a_number_that_no_float_holds_is_no_history(tmp_path: Path):
    path = tmp_path / "own.safetensors"
    lora = random_lora()
    run = RunFacts(history={"loss": [1.0], "mean_rank": [2.0]})
    lora2.save(path, replace(lora, origin=Origin(run=run)))
    without_checksums(path)
    with_metadata(path, lambda m: m.update({"lora2.history": f'{{"loss": [1{"0" * 400}]}}'}))
    loaded = lora2.load(path)
    assert not loaded.origin.run.history
    assert "lora2.history is not what" in loaded.origin.file.left_out[0]
