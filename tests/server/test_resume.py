"""Checkpoints through the server: a cancelled run goes on to the file of one that was not."""

import pytest

from lora2_core import load
from tests.graphs import SAVE, TRAIN, Graph, quick_start
from tests.hosting.server import ComfyServer, ExecutionError

LATEST = "latest of this name"
STEPS = 60


def training(**inputs) -> Graph:
    """The quick start's training with the options node, and another one after it."""
    graph = quick_start(steps=STEPS, batch_size=2, target_rank=4, max_rank=16, name="resumed")
    graph = {k: graph[k] for k in ("model", "pictures", "dataset", TRAIN, SAVE)}
    given = {"every": 50, "keep_last": 2, "name": "server", "resume": "none"} | inputs
    graph["checkpoints"] = {"class_type": "LoRA2CheckpointOptions", "inputs": given}
    targets = {"targets": "attn2", "options": ["checkpoints", 0]}
    graph["targets"] = {"class_type": "LoRA2TargetOptions", "inputs": targets}
    graph[TRAIN]["inputs"]["options"] = ["targets", 0]
    return graph


def saved_hash(server: ComfyServer, entry: dict) -> str:
    """Of the weights in the file that was saved."""
    (text,) = entry["outputs"][SAVE]["text"]
    lora = load(server.base / "models" / "loras" / text.split(" (")[0])
    return lora.origin.file.metadata["sshs_model_hash"]


def resumable(server: ComfyServer) -> list[str]:
    return server.object_info()["LoRA2CheckpointOptions"]["input"]["required"]["resume"][1][
        "options"
    ]


@pytest.mark.slow
def test_a_cancelled_run_goes_on_to_the_same_file(server: ComfyServer):
    def cancel(event: dict) -> None:
        if event["type"] == "lora2.train":
            server.interrupt()

    with pytest.raises(ExecutionError, match="(?i)interrupt"):
        server.run(training(), cancel)
    (name,) = [n for n in resumable(server) if n.startswith("server/")]
    steps = []
    again = server.run(
        training(resume=name, every=0),
        lambda e: e["type"] == "lora2.train" and steps.append(e["data"]["step"]),
    )
    assert steps[0] > 1 and steps[-1] == STEPS
    whole = server.run(training(every=0))
    assert saved_hash(server, again) == saved_hash(server, whole)
    latest = server.run(training(resume=LATEST, every=0))
    assert saved_hash(server, latest) == saved_hash(server, whole)

    graph = training(resume=name)
    graph[TRAIN]["inputs"]["steps"] = STEPS + 1
    with pytest.raises(ExecutionError, match="steps 60 there, 61 here. .*LoRA2 Start Options"):
        server.run(graph)


@pytest.mark.parametrize(
    ("inputs", "sentence"),
    [
        ({"resume": "server/gone.safetensors"}, "There is no checkpoint 'server/gone.safetensors'"),
        ({"resume": "../../../../etc/passwd"}, "There is no checkpoint"),
        ({"name": "../outside"}, "name is '../outside': give one of letters"),
        ({"every": -1}, "-1 smaller than min of 0"),
        ({"keep_last": 0}, "0 smaller than min of 1"),
    ],
)
def test_faults(server: ComfyServer, inputs: dict, sentence: str):
    with pytest.raises((ExecutionError, ValueError), match=sentence):
        server.run(training(**inputs))


def test_every_input_is_explained(server: ComfyServer):
    info = server.object_info()["LoRA2CheckpointOptions"]
    assert {"resume", "continue training"} <= set(info["search_aliases"])
    inputs = info["input"]["required"] | info["input"]["optional"]
    assert len(inputs) == 7 and all(options["tooltip"] for _, options in inputs.values())
