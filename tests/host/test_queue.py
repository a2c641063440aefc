"""A queue of folders in the graph: adapters one after another, and a second run goes on."""

from pathlib import Path

import comfy.model_management
import folder_paths
import numpy as np
import pytest
from PIL import Image

from lora2_core import load
from lora2_core.host.training import queue as module
from lora2_core.host.training.queue import entries
from lora2_core.host.training.run_view import RunView
from tests.host.test_together import given

TRAIN = {
    "steps": 8, "batch_size": 2, "learning_rate": 1e-2, "target_rank": 4, "max_rank": 8,
    "resolution": 32,
}  # fmt: skip


@pytest.fixture
def place(folder, tmp_path, monkeypatch) -> Path:
    """Two folders of pictures in the input folder, and empty loras and output folders."""
    monkeypatch.setattr(folder_paths, "output_directory", str(tmp_path / "output"))
    monkeypatch.setattr(folder_paths, "get_folder_paths", lambda kind: [str(tmp_path / kind)])
    (tmp_path / "loras").mkdir()
    other = folder.parent / "deep" / "fox"
    other.mkdir(parents=True)
    for i in range(2):
        Image.fromarray(np.full((32, 32, 3), 80 * i, np.uint8)).save(other / f"{i}.png")
    return tmp_path


def queued(nodes, playground, **changes):
    node = nodes["LoRA2TrainQueue"]
    models = {"model": playground.model, "clip": playground.clip, "vae": playground.vae}
    fields = {"folders": "owl\ndeep/fox = my fox", "caption": "a fox", **TRAIN}
    (options,) = nodes["LoRA2TargetOptions"].execute(targets="attn2").result
    return node.execute(**given(node, **models | fields | changes), options=options).result


def test_folders_become_adapters_and_a_second_run_reads_them(nodes, playground, place, monkeypatch):
    loras, names = queued(nodes, playground)
    assert [name.rpartition("-")[0] for name in names] == ["lora2/queue/owl", "lora2/queue/my fox"]
    for lora, name in zip(loras, names, strict=True):
        assert load(place / "loras" / name).ranks == lora.ranks
        assert lora.origin.file.metadata["ss_steps"] == "8"
    assert not list((place / "output/lora2/checkpoints").glob("*")), "none is needed any more"
    with monkeypatch.context() as patch:
        patch.setattr(module, "make_dataset", None)  # nothing is encoded, nothing is trained
        assert queued(nodes, playground)[1] == names
    other = queued(nodes, playground, folders="owl", steps=4)[1]
    assert other[0] not in names, "another setting is another adapter"


def test_each_training_is_shown_in_the_graph(nodes, playground, place, monkeypatch):
    from comfyui_lora2.nodes import train_queue

    seen = []
    monkeypatch.setattr(train_queue.live_events, "send", lambda kind, event: seen.append(kind))
    queued(nodes, playground, folders="owl")
    assert seen[0] == "lora2.train_begun" and set(seen[1:]) == {"lora2.train"}


def test_a_cancelled_queue_goes_on_where_it_was(nodes, playground, place, monkeypatch):
    whole = queued(nodes, playground, folders="owl")
    path = place / "loras" / whole[1][0]
    wanted = load(path)
    path.unlink()
    after, seen = RunView.after, []

    def stop(self, step):
        after(self, step)
        if step.index == 5:
            raise comfy.model_management.InterruptProcessingException

    monkeypatch.setattr(RunView, "after", stop)
    with pytest.raises(comfy.model_management.InterruptProcessingException):
        queued(nodes, playground, folders="owl")
    monkeypatch.setattr(RunView, "after", lambda self, step: seen.append(step.index))
    (lora,), _ = queued(nodes, playground, folders="owl")
    assert seen == [6, 7, 8]
    for name, layer in wanted.layers.items():
        assert layer.up.equal(lora.layers[name].up) and layer.down.equal(lora.layers[name].down)


def test_one_that_fails_leaves_the_others(nodes, playground, place):
    for path in (place / "input/owl").glob("*.png"):
        path.write_bytes(b"no picture")
    with pytest.raises(RuntimeError, match="1 of 2 trainings failed, the first is owl"):
        queued(nodes, playground)
    assert [p.name.rpartition("-")[0] for p in (place / "loras").rglob("*.safetensors")] == [
        "my fox"
    ]


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("", "There are 0 folders: write 1 to 100"), ("gone", "gone"), ("../owl", "owl"),
        ("owl\ndeep/fox = OWL", "Two adapters would be called 'OWL'"),
        ("owl = ../a", "can't be that of a file"), ("owl = a/b", "it has folders"),
        ("owl = con", "con is a device of Windows"),
    ],
)  # fmt: skip
def test_wrong_folders_are_one_sentence(nodes, place, text: str, sentence: str):
    with pytest.raises(ValueError, match=sentence) as error:
        entries(text)
    assert "\n" not in str(error.value)
    assert nodes["LoRA2TrainQueue"].validate_inputs(folders=text) == str(error.value)


@pytest.mark.parametrize("prefix", ["../a/", "/a/", "con/"])
def test_no_prefix_leads_out(nodes, playground, place, prefix: str):
    with pytest.raises((ValueError, RuntimeError), match="filename_prefix"):
        queued(nodes, playground, filename_prefix=prefix)


def test_wrong_settings_are_one_sentence_before_anything_is_encoded(
    nodes, playground, place, monkeypatch
):
    monkeypatch.setattr(module, "make_dataset", None)
    for changes, sentence in (({"steps": 0}, "steps is 0"), ({"model": 3}, "model is 3")):
        with pytest.raises(ValueError, match=sentence):
            queued(nodes, playground, **changes)


def test_further_resolutions_make_another_adapter(nodes, playground, place):
    one, more = (
        queued(nodes, playground, folders="owl", steps=1, more_resolutions=text)[1][0]
        for text in ("", "48")
    )
    assert one != more
    check = nodes["LoRA2TrainQueue"].validate_inputs
    assert check(more_resolutions="512, 768") is True
    assert "more_resolutions is 'large': give numbers" in check(more_resolutions="large")
