"""Presets: a chain there and back, and files of strangers that can do nothing but set settings."""

import json

import folder_paths
import pytest

from lora2_core.host.training import presets
from lora2_core.host.training.choices import Choices
from lora2_core.host.training.presets import (
    FAMILIES,
    LARGEST,
    SHARED,
    Preset,
    preset_list,
    read_preset,
    write_preset,
)
from tests.host.test_together import CHAIN, given


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.setattr(folder_paths, "output_directory", str(tmp_path))
    folder = tmp_path / "lora2" / "presets"
    folder.mkdir(parents=True)
    return folder


def saved(nodes, **changes):
    node = nodes["LoRA2SavePreset"]
    return node.execute(**given(node, **({"name": "mine", "options": {}} | changes)))


def test_every_preset_of_the_pack_can_be_used(nodes):
    names = [path.stem for path in FAMILIES.glob("*.json")]
    assert len(names) >= 6 and set(names) <= set(preset_list())
    for name in names:
        options, steps, rate, rank = nodes["LoRA2Preset"].execute(preset=name).result
        Choices.of(options | {"steps": steps, "learning_rate": rate, "target_rank": rank})
        preset = read_preset(name)
        assert preset.about and preset.encoded() == (FAMILIES / f"{name}.json").read_bytes()


def test_they_set_what_the_templates_set():
    for name, (steps, rate, rank) in {
        "SDXL subject": (500, 1e-4, 16), "SDXL style": (2000, 1e-4, 16),
        "Flow model": (1000, 1e-4, 16), "Playground": (400, 5e-3, 8),
    }.items():  # fmt: skip
        preset = read_preset(name)
        assert (preset.steps, preset.learning_rate, preset.target_rank) == (steps, rate, rank)


def test_a_chain_comes_back_as_it_was(nodes, folder):
    options = None
    for kind, changes in CHAIN.items():
        (options,) = nodes[kind].execute(**given(nodes[kind], **changes), options=options).result
    (name,) = saved(nodes, options=options, about="ä $x$", steps=7, learning_rate=0.01).result
    assert name == "mine.json" and name in preset_list()
    loaded = nodes["LoRA2Preset"].execute(preset=name, options={"huber": 9.0, "masks": []}).result
    assert loaded[0] == options | {"masks": []} and loaded[1:3] == (7, 0.01)
    assert read_preset(name).about == "ä $x$"


def test_what_is_no_setting_to_share_is_left_out_and_named(nodes, folder, playground):
    options = {
        "targets": "attn2", "masks": [1], "checkpoint_name": "a", "resume": "b", "steps": 3,
        "adapter_prefix": "c", "previews": (), "clip": playground.clip,
    }  # fmt: skip
    node = saved(nodes, options=options)
    text = node.ui["text"][0]
    left = "adapter_prefix, checkpoint_name, clip, masks, previews, resume"
    assert text == f"mine.json: 1 settings; not in it: {left}"
    assert read_preset("mine.json").settings == {"targets": "attn2"}


def test_a_preset_is_never_replaced(nodes, folder):
    saved(nodes, options={"huber": 0.5})
    saved(nodes, options={"huber": 0.5})  # the same again changes nothing
    with pytest.raises(ValueError, match="There is another preset 'mine.json': give a new name"):
        saved(nodes, options={"huber": 0.6})
    assert read_preset("mine.json").settings == {"huber": 0.5}


@pytest.mark.parametrize(
    "name", ["../a", "/a", "a/b", "a\\b", "", "con", "a\0", ".a", "c:a", "a\n"]
)
def test_names_that_lead_elsewhere(nodes, folder, name: str):
    with pytest.raises(ValueError, match="^name is"):
        saved(nodes, name=name)
    for listed in (name, f"{name}.json"):
        with pytest.raises(ValueError, match="There is no preset"):
            nodes["LoRA2Preset"].execute(preset=listed)
        assert nodes["LoRA2Preset"].validate_inputs(preset=listed) is not True
    assert [path for path in folder.parent.parent.rglob("*") if path.is_file()] == []


GOOD = {"lora2_preset": 1, "settings": {"huber": 0.5}}


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        (b"\xff\xfe", "it is no JSON"), (b"{", "it is no JSON"), (b"[" * 10**4, "it is no"),
        ([], "no preset that this LoRA2 reads"), ({}, "no preset that this LoRA2 reads"),
        (GOOD | {"lora2_preset": 2}, '"lora2_preset" must be 1'),
        (GOOD | {"run": 1}, "it has 'run', which no preset has"),
        (GOOD | {"settings": [1]}, "settings is \\[1\\]"),
        (GOOD | {"settings": {"resume": "../a"}}, "settings has 'resume', which no preset has"),
        (GOOD | {"settings": {"seed": 1}}, "settings has 'seed', which no preset has"),
        (GOOD | {"settings": {"clip": "a"}}, "settings has 'clip', which no preset has"),
        (GOOD | {"settings": {"huber": -1}}, "huber is -1: give a number"),
        (GOOD | {"settings": {"huber": [0.5]}}, "huber is \\[0.5\\]: give a number or a short"),
        (GOOD | {"settings": {"targets": "x" * 3000}}, "give a number or a short text"),
        (GOOD | {"settings": {"optimizer": "rm -rf"}}, "optimizer is 'rm -rf': choose adamw"),
        (GOOD | {"settings": {"schedule": 3}}, "schedule is 3"),
        (GOOD | {"steps": 0}, "steps is 0"),
        (GOOD | {"learning_rate": "a"}, "learning_rate is 'a'"),
        (GOOD | {"target_rank": 1.5}, "target_rank is 1.5"), (GOOD | {"about": 3}, "about is 3"),
        (GOOD | {"about": "x" * 70_000}, f"it is larger than {LARGEST} bytes"),
    ],
    ids=lambda v: str(v)[:40],
)  # fmt: skip
def test_a_file_of_a_stranger_is_one_sentence(nodes, folder, content, sentence: str):
    data = content if isinstance(content, bytes) else json.dumps(content).encode()
    (folder / "a.json").write_bytes(data)
    with pytest.raises(ValueError, match=sentence) as error:
        nodes["LoRA2Preset"].execute(preset="a.json")
    assert "\n" not in str(error.value) and str(error.value).startswith("The preset 'a.json'")


def test_nothing_that_a_preset_sets_names_a_file():
    """A new setting with a path in it must not get into SHARED by being a field."""
    assert not {
        name for name in SHARED if any(w in name for w in ("file", "name", "prefix", "path"))
    }
    assert {"targets", "layers", "optimizer", "schedule", "sampling", "quantile"} <= SHARED


def test_a_damaged_list_does_no_harm(folder):
    (folder / "sub.json").mkdir()
    (folder / "\u202eevil.json").write_text("{}")
    (folder / "ok.json").write_bytes(Preset().encoded())
    assert preset_list()[-1] == "ok.json" and len(preset_list()) == 1 + len(
        list(FAMILIES.iterdir())
    )
    assert write_preset(Preset(), "ok") == "ok.json"
    assert presets.presets_folder() == folder
