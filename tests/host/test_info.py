"""LoRA² Info on real adapters: of a training, of a file in every form, and what it refuses."""

import folder_paths
import pytest
import safetensors.torch
import torch

from lora2_core import RankSettings, TrainSettings, save
from lora2_core.files.provenance import EDITED_NOTE, REWRITTEN_NOTE
from lora2_core.host.training.choices import Choices
from lora2_core.host.training.hints import hints
from lora2_core.host.training.run import train_on
from tests.toys import foreign, metadata_of


@pytest.fixture(scope="module")
def node(nodes):
    return nodes["LoRA2Info"]


@pytest.fixture(scope="module")
def trained(playground):
    settings = RankSettings(target_rank=4, max_rank=8)
    run = Choices(settings, TrainSettings(8, 1e-2), batch_size=2)
    with torch.inference_mode():
        return train_on(
            playground.model, playground.latents, playground.positive, run, lambda step: None
        ).lora


@pytest.fixture
def loras(tmp_path, monkeypatch):
    """A folder that stands for the loras folder."""
    monkeypatch.setattr(folder_paths, "get_folder_paths", lambda kind: [str(tmp_path)])
    return tmp_path


def rows(table: str) -> list[list[str]]:
    return [[c.strip() for c in line.strip("|").split("|")] for line in table.splitlines()[2:-1]]


def test_a_trained_adapter_is_described(node, trained):
    out = node.execute(None, trained)
    image, table, metadata = out.result
    assert image.ndim == 4 and image.shape[0] == 1 and image.shape[3] == 3
    assert image.dtype == torch.float32 and 0 <= image.min() < image.max() <= 1
    assert [row[0] for row in rows(table)] == list(trained.layers)
    assert [int(row[1]) for row in rows(table)] == list(trained.ranks.values())
    assert "ss_steps: 8" in metadata and "ss_learning_rate: 0.01" in metadata
    assert out.ui["text"][0].startswith("adapter: ") and "steps 8" in out.ui["text"][0]


@pytest.mark.parametrize("form", ["kohya", "peft", "uniform"])
def test_a_file_of_any_form_has_the_norms_of_its_adapter(node, trained, loras, form):
    save(
        loras / "a.safetensors", trained, form=form, dtype="fp32",
        diffusers=trained.origin.base.diffusers,
    )  # fmt: skip
    image, table, metadata = node.execute("a.safetensors").result
    expected = node.execute(None, trained).result
    assert image.shape == expected[0].shape
    found, wanted = rows(table), rows(expected[1])
    assert [row[:2] for row in found] == [row[:2] for row in wanted]
    for one, other in zip(found, wanted, strict=True):
        assert float(one[3]) == pytest.approx(float(other[3]), rel=2e-3)
    assert "ss_output_name: a" in metadata and "lora2.settings" in metadata


def test_what_another_program_changed_is_shown_where_a_file_is_read(
    nodes, playground, node, trained, loras
):
    path = loras / "a.safetensors"
    save(path, trained, diffusers=trained.origin.base.diffusers)
    tensors = safetensors.torch.load_file(path)
    table = node.execute("a.safetensors").result[1]
    written = [name for name, rank in trained.ranks.items() if rank]
    load, compress = nodes["LoRA2Load"], nodes["LoRA2Compress"]
    for change, note in ((1.0, EDITED_NOTE), (0.5, REWRITTEN_NOTE)):
        told = metadata_of(path) | {"modelspec.trigger_phrase": "an owl"}
        scaled = {k: t * change if k.endswith("lora_up.weight") else t for k, t in tensors.items()}
        foreign(path, scaled, told)
        out = node.execute("a.safetensors")
        assert note in out.ui["text"][0].splitlines()
        assert ("new modelspec.trigger_phrase" in out.ui["text"][0]) == (change == 1)
        assert (out.result[1] == table) == (change == 1)
        loaded = load.execute(playground.model, "a.safetensors")
        assert loaded.ui["lora2_note"] == [note]
        assert sorted(loaded.result[2].layers) == sorted(trained.layers if change == 1 else written)
        assert note in compress.execute("a.safetensors").ui["text"][0].splitlines()
        (options,) = nodes["LoRA2StartOptions"].execute(lora_name="a.safetensors").result
        run = Choices.of({**options, "targets": r"attn1.to_q$"})
        assert hints(playground.model, run)[-1] == note


def test_an_adapter_goes_before_the_file(node, trained):
    assert node.execute("gone.safetensors", trained).ui["text"][0].startswith("adapter: ")


def test_faults(node, loras):
    (loras / "text.safetensors").write_text("no tensors here, only words")
    with pytest.raises(ValueError, match=r"no file 'gone.safetensors' in the loras folder: choose"):
        node.execute("gone.safetensors")
    with pytest.raises(ValueError, match=r"^lora_name is None and lora2 is not connected: choose"):
        node.execute()
    with pytest.raises(ValueError, match=r"^lora2 is {'x': tensor.*}: connect LoRA2 Train"):
        node.execute(None, {"x": torch.zeros(1)})
    with pytest.raises(ValueError, match=r"^text.safetensors is no safetensors file"):
        node.execute("text.safetensors")


def test_every_input_is_explained(node):
    schema = node.define_schema()
    assert all(given.tooltip and given.optional for given in schema.inputs)
    assert {"lora metadata", "lora info", "inspect lora"} <= set(schema.search_aliases)


def test_the_form_notices_a_changed_file(node, loras):
    import os

    (loras / "a.safetensors").write_text("one")
    state = node.fingerprint_inputs(lora_name="a.safetensors")
    os.utime(loras / "a.safetensors", ns=(1, 1))
    assert node.fingerprint_inputs(lora_name="a.safetensors") != state
