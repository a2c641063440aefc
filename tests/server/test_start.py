"""A finished adapter is trained further through the server: from its file, and from another
training in the same graph.
"""

import pytest

from lora2_core import load
from tests.graphs import SAVE, TRAIN, Graph, quick_start
from tests.hosting.server import ComfyServer, ExecutionError


def training(**inputs) -> Graph:
    """The quick start's training, a second one from what `inputs` say, and its file."""
    graph = quick_start(steps=4, batch_size=2, target_rank=4, max_rank=16, name="further")
    graph = {k: graph[k] for k in ("model", "pictures", "dataset", TRAIN, SAVE)}
    graph["start"] = {
        "class_type": "LoRA2StartOptions",
        "inputs": {"strength": 1.0, "adopt_layers": True} | inputs,
    }
    second = dict(graph[TRAIN]["inputs"])
    graph["further"] = {"class_type": "LoRA2Train", "inputs": second | {"options": ["start", 0]}}
    graph[SAVE]["inputs"]["lora2"] = ["further", 0]
    return graph


def saved(server: ComfyServer, entry: dict) -> str:
    (text,) = entry["outputs"][SAVE]["text"]
    return text.split(" (")[0]


def test_from_another_training_and_then_from_its_file(server: ComfyServer):
    first = saved(server, server.run(training(lora2=[TRAIN, 0])))
    second = saved(server, server.run(training(lora_name=first)))
    loras = [load(server.base / "models" / "loras" / name) for name in (first, second)]
    starts = [lora.origin.run.settings["start"] for lora in loras]
    assert len(set(starts)) == 2 and loras[0].layers.keys() == loras[1].layers.keys()


@pytest.mark.parametrize(
    ("inputs", "sentence"),
    [
        ({}, "choose a file from the list|The loras folder is empty|There is no file None"),
        ({"lora_name": "../gone.safetensors"}, "There is no file '../gone.safetensors'"),
    ],
)
def test_faults(server: ComfyServer, inputs: dict, sentence: str):
    with pytest.raises((ExecutionError, ValueError), match=sentence):
        server.run(training(**inputs))


def test_a_strength_of_nothing_is_left_out(server: ComfyServer):
    """With what needs it; the training before it still runs."""
    assert "0.0 smaller than min of 0.01" in server.left_out(training(strength=0.0))
