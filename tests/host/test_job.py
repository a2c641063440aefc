"""A job in a ComfyUI without a window: folders become adapters, and a second start goes on."""

import json
import os
import subprocess
import sys

import folder_paths
import pytest

from lora2_core import load
from lora2_core.host.training import run as host_run
from lora2_core.host.training import run_view
from lora2_core.protocol import trainer
from lora2_core.protocol.job import Job
from tests.hosting.server import REPOSITORY
from tests.protocol.data import write_data

JOB = {
    "checkpoint": "playground", "folders": ["owl", "fox"], "prompts": ["{name}, noto style"],
    "dataset": {"resolution": 32}, "sample": {"steps": 2, "every": 6, "cfg": 2.0},
    "train": {"steps": 12, "learning_rate": 1e-2, "target_rank": 4, "max_rank": 16, "targets":
              "attn2", "batch_size": 2, "validation_split": 0.25},
    "save": {"dtype": "bf16"}, "checkpoint_every": 5,
}  # fmt: skip


@pytest.fixture
def place(tmp_path, monkeypatch):
    """Two folders of pictures; the host's own folders are as before afterwards."""
    for kind in ("input", "output", "user"):
        get = f"get_{kind}_directory"
        monkeypatch.setattr(folder_paths, f"{kind}_directory", getattr(folder_paths, get)())
    monkeypatch.setattr(folder_paths, "user_directory", str(tmp_path / "user"))
    write_data(tmp_path, ("owl", "fox"), 4)
    return tmp_path


def job_of(place, **changes) -> Job:
    (place / "job.json").write_text(json.dumps(JOB | changes))
    return Job.read(str(place / "job.json"))


def done(place, **changes) -> dict:
    job = job_of(place, **changes)
    return trainer.work_off(job, job.subjects(place), place / "out")


def test_folders_become_adapters_and_a_second_start_does_what_is_missing(place, monkeypatch):
    facts = done(place)
    out = place / "out"
    assert list(facts) == ["owl", "fox"]
    first = {name: (out / f"{name}.safetensors").read_bytes() for name in facts}
    for name in facts:
        lora = load(out / f"{name}.safetensors")
        metadata = lora.origin.file.metadata
        assert (metadata["ss_steps"], metadata["ss_num_train_images"]) == ("12", "3")
        pictures = sorted(path.name for path in (out / name).rglob("*.png"))
        assert pictures == [f"00_00001_step-{step:06}.png" for step in (0, 6, 12)]
    assert not list((out / "lora2" / "checkpoints").iterdir()), "none is needed any more"
    with monkeypatch.context() as patch:
        patch.setattr(trainer, "Trainer", None)  # nothing is loaded, nothing is trained
        assert done(place) == facts
    (out / "fox.safetensors").unlink()
    done(place)
    assert (out / "owl.safetensors").read_bytes() == first["owl"]


def test_a_stopped_job_goes_on_to_the_same_adapter(place, monkeypatch):
    whole = done(place, folders=["owl"])
    path = place / "out" / "owl.safetensors"
    wanted = load(path)
    for old in (path, path.with_suffix(".json")):
        old.unlink()

    def stop(step) -> None:
        if step.index == 8:
            raise KeyboardInterrupt

    after = trainer.RunView.after
    monkeypatch.setattr(
        trainer.RunView, "after", lambda self, step: stop(step) or after(self, step)
    )
    with pytest.raises(KeyboardInterrupt):
        done(place, folders=["owl"])
    assert not path.exists()
    monkeypatch.setattr(trainer.RunView, "after", after)
    seen, train_on = [], host_run.train_on

    def watched(*args, **named):
        outcome = train_on(*args, **named)
        seen.append(outcome.resumed_after)
        return outcome

    monkeypatch.setattr(run_view, "train_on", watched)
    again = done(place, folders=["owl"])
    assert seen == [8] and again["owl"]["loss"] == whole["owl"]["loss"]
    found = load(path)
    for name, layer in wanted.layers.items():
        assert layer.up.equal(found.layers[name].up) and layer.down.equal(found.layers[name].down)


def test_one_that_fails_leaves_the_others(place):
    (place / "owl" / "00.png").unlink()
    for path in (place / "owl").glob("*.png"):
        path.write_bytes(b"no picture")
    with pytest.raises(RuntimeError, match="1 of 2 trainings failed, the first is owl"):
        done(place, prompts=[])
    assert (place / "out" / "fox.safetensors").is_file()
    assert not (place / "out" / "owl.json").exists()


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"train": {"colour": 1}}, "options hold 'colour'"),
        ({"train": {"steps": 0}}, "steps is 0"),
        ({"epochs": -1}, "epochs is -1"),
        ({"dataset": {"size": 3}}, "dataset has 'size': it may have caption"),
        ({"sample": {"positive": 3}}, "sample has 'positive': it may have"),
        ({"save": {"name": 3}}, "save has 'name': it may have format, dtype, max_mb"),
        ({"checkpoint": "gone.safetensors"}, "There is no checkpoint 'gone.safetensors'"),
    ],
)
def test_a_wrong_setting_is_one_sentence_before_anything_is_encoded(
    place, monkeypatch, changes: dict, sentence: str
):
    monkeypatch.setattr(trainer, "make_dataset", None)
    with pytest.raises(ValueError, match=sentence) as error:
        done(place, **changes)
    assert "\n" not in str(error.value)


@pytest.mark.slow
def test_the_command(place):
    job_of(place, folders=["owl"], prompts=[], train=JOB["train"] | {"steps": 2})
    command = [sys.executable, "-m", "lora2_core.protocol", "train", str(place / "job.json")]
    environment = os.environ | {"LORA2_DEVICE": "cpu"}
    ended = subprocess.run(
        [*command, "--base-directory", str(place / "base")], cwd=REPOSITORY, env=environment,
        capture_output=True, text=True, timeout=300,
    )  # fmt: skip
    assert ended.returncode == 0, ended.stderr
    assert ended.stdout.splitlines()[2].startswith("| owl | 0.")
    assert (place / "job" / "owl.safetensors").is_file()
