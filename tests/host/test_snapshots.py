"""Adapters on the way are what a run would give if it ended there, and change nothing."""

import logging
from pathlib import Path

import folder_paths
import pytest

from lora2_core import load
from lora2_core.host.training import snapshots
from lora2_core.host.training.snapshots import PREFIX
from tests.host.kept import bytes_of, stop_at
from tests.tiers import fast


@pytest.fixture
def folder(tmp_path, monkeypatch) -> Path:
    """A loras folder of the test's own."""
    monkeypatch.setattr(folder_paths, "get_folder_paths", lambda kind: [str(tmp_path / kind)])
    return tmp_path / "loras" / "lora2" / "steps"


@pytest.mark.parametrize("options", fast([{"mode": "fixed", "ema": 0.9}, {}, {"mode": "paper"}]))
def test_each_is_the_adapter_of_its_step(train, uninterrupted, folder, options: dict):
    whole = uninterrupted(**options)
    assert bytes_of(train(adapter_every=5, **options)) == bytes_of(whole)
    names = [f"lora2_step-{step:06}_00001_.safetensors" for step in (5, 10)]
    assert sorted(path.name for path in folder.iterdir()) == names, "not of the last step"
    stopped = train(stop_at(5), **options).lora
    found = load(folder / names[0])
    ranked = {name: rank for name, rank in stopped.ranks.items() if rank}
    assert {name: rank for name, rank in found.ranks.items() if rank} == ranked
    for name in ranked:
        near = (found.layers[name].delta() - stopped.layers[name].delta()).norm()
        assert near <= 2e-3 * stopped.layers[name].delta().norm(), "but for fp16"
    assert found.origin.file.metadata["ss_steps"] == "5"


def test_a_disk_that_is_full_does_not_end_the_run(train, folder, monkeypatch, caplog):
    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(snapshots, "save_under_loras", full)
    with caplog.at_level(logging.ERROR):
        assert train(adapter_every=5).stopped_by is None
    assert "The adapter of step 5 is not saved" in caplog.text
    assert "No space left on device" in caplog.text


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"adapter_every": -1}, "adapter_every is -1: give a whole number from 0"),
        ({"adapter_every": 5, "adapter_prefix": "../../x"}, "leads out of the loras folder"),
        ({"adapter_every": 5, "adapter_prefix": ""}, "'' is empty or leads out"),
    ],
)
def test_bad_values_are_refused_before_any_step(train, folder, change: dict, sentence: str):
    with pytest.raises(ValueError, match=sentence):
        train(stop_at(1, AssertionError), **change)


def test_the_form_hands_them_on(nodes):
    node = nodes["LoRA2CheckpointOptions"]
    (options,) = node.execute(adapter_every=7).result
    assert options["adapter_every"] == 7 and options["adapter_prefix"] == PREFIX
