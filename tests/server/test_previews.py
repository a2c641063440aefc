"""Previews through the server: events, pictures in the output folder, the same adapter."""

import pytest
from PIL import Image

from tests.graphs import SAVE, TRAIN, Graph, quick_start
from tests.hosting.server import ComfyServer, ExecutionError
from tests.server.test_resume import saved_hash

STEPS = 6


def training(previews: int = 1, **inputs) -> Graph:
    """The quick start's training with so many preview nodes in a chain, and another after them."""
    graph = quick_start(steps=STEPS, batch_size=2, target_rank=4, max_rank=8, name="previewed")
    kept = ("model", "pictures", "dataset", TRAIN, SAVE, "prompt", "nothing")
    graph = {k: graph[k] for k in kept}
    given = {
        "positive": ["prompt", 0], "negative": ["nothing", 0], "vae": ["model", 2], "every": 4,
        "seed": 1, "steps": 2, "cfg": 4.0, "sampler_name": "euler", "scheduler": "simple",
        "width": 0, "height": 0, "filename_prefix": "lora2/previews/owl",
    }  # fmt: skip
    chain = {}
    for number in range(previews):
        chain = {"options": [f"preview {number - 1}", 0]} if number else {}
        node = {"class_type": "LoRA2PreviewOptions", "inputs": given | inputs | chain}
        graph[f"preview {number}"] = node
    targets = {"targets": "attn2"}
    if previews:
        targets["options"] = [f"preview {previews - 1}", 0]
    graph["targets"] = {"class_type": "LoRA2TargetOptions", "inputs": targets}
    graph[TRAIN]["inputs"]["options"] = ["targets", 0]
    return graph


def test_pictures_arrive_and_the_adapter_is_the_same(server: ComfyServer):
    plain = saved_hash(server, server.run(training(previews=0)))
    events = []

    def note(event: dict) -> None:
        if event["type"] == "lora2.train":
            events.append(event["data"])

    entry = server.run(training(previews=2), note)
    assert saved_hash(server, entry) == plain
    assert {event["prompt_id"] for event in events} == {entry["prompt"][1]}
    told = [[p["step"] for p in event["previews"]] for event in events if "previews" in event]
    assert told[0] == [0, 0] and told[-1] == [0, 0, 4, 4, 6, 6]
    assert entry["outputs"][TRAIN]["lora2.train"] == events[-1:]  # a page that comes later has it
    for image in events[-1]["previews"]:
        assert (image["type"], image["subfolder"]) == ("output", "lora2/previews")
        with Image.open(server.base / "output" / "lora2/previews" / image["filename"]) as picture:
            assert picture.size == (32, 32)
    told = server.log.read_text(errors="replace")
    assert "LoRA2 Train: step 6 of 6 after" in told and "for previews), loss" in told


@pytest.mark.parametrize(
    ("inputs", "sentence"),
    [
        ({"filename_prefix": "../../outside"}, "is no place in the output folder"),
        ({"every": 0}, "0 smaller than min of 1"),
        ({"cfg": "nan"}, "cfg is nan"),
        ({"sampler_name": "gone"}, "gone"),
    ],
)
def test_faults(server: ComfyServer, inputs: dict, sentence: str):
    with pytest.raises((ExecutionError, ValueError), match=sentence):
        server.run(training(**inputs))


def test_every_input_is_explained(server: ComfyServer):
    info = server.object_info()["LoRA2PreviewOptions"]
    assert {"sample prompts", "samples while training"} <= set(info["search_aliases"])
    inputs = info["input"]["required"] | info["input"]["optional"]
    assert len(inputs) == 18 and all(options["tooltip"] for _, options in inputs.values())
