"""Texts that come from another node: used where they are good, refused in one sentence before the
training where they are not.
"""

from urllib.parse import urlencode
from urllib.request import urlopen

import pytest

from tests.graphs import SAVE, TRAIN, Graph, quick_start
from tests.hosting.server import ComfyServer, ExecutionError

BAD = "../outside"


def linked(text: str, kind: str, name: str, **inputs: object) -> Graph:
    """A short training with a node behind it whose input `name` is a text of another node."""
    graph = quick_start(steps=2, batch_size=1, target_rank=2, max_rank=4)
    graph = {k: graph[k] for k in ("model", "pictures", "dataset", TRAIN)}
    return graph | {
        "text": {"class_type": "PrimitiveString", "inputs": {"value": text}},
        "node": {"class_type": kind, "inputs": inputs | {name: ["text", 0]}},
    }


def of_train(kind: str, name: str, **inputs: object) -> Graph:
    """The same for a node of options in front of the training, which is saved."""
    graph = linked(BAD, kind, name, **inputs)
    graph[TRAIN]["inputs"]["options"] = ["node", 0]
    return graph | {SAVE: {"class_type": "LoRA2Save", "inputs": saving("lora2/options")}}


def saving(prefix: object) -> dict:
    rest = {"format": "kohya", "dtype": "fp16", "max_mb": 0.0}
    return {"lora2": [TRAIN, 0], "filename_prefix": prefix} | rest


def saved(server: ComfyServer, start: str) -> list[str]:
    return [p.name for p in (server.base / "models/loras").glob(f"{start}*.safetensors")]


PREVIEW = {
    "positive": ["prompt", 0], "vae": ["model", 2], "every": 100, "seed": 0, "steps": 1, "cfg": 1.0,
    "sampler_name": "euler", "scheduler": "simple", "width": 0, "height": 0,
}  # fmt: skip
REPORT = {"lora2": [TRAIN, 0], "save": True, "tensorboard": False}
KEPT = {"every": 0, "keep_last": 1}
PROMPT = {"class_type": "CLIPTextEncode", "inputs": {"text": "an owl", "clip": ["model", 1]}}
GRAPHS = {
    "Save": linked(BAD, "LoRA2Save", "filename_prefix", **saving(None)),
    "Report": linked(BAD, "LoRA2Report", "filename_prefix", **REPORT),
    "Preview": of_train("LoRA2PreviewOptions", "filename_prefix", **PREVIEW) | {"prompt": PROMPT},
    "Checkpoints": of_train("LoRA2CheckpointOptions", "name", **KEPT, resume="none"),
}


@pytest.mark.parametrize("name", GRAPHS)
def test_a_bad_name_ends_the_prompt_and_costs_no_training(server: ComfyServer, name: str):
    """Options come before the training. The host may run the training before the nodes behind it
    know their names: then it is not run again once the name is right.
    """
    events = []
    with pytest.raises(ExecutionError, match=r"'\.\./outside'") as caught:
        server.run(GRAPHS[name], lambda event: events.append(event["type"]))
    assert str(caught.value).count("\n") == 0 and "(node)" in str(caught.value)
    if "lora2.train" not in events:
        return
    assert name in ("Save", "Report")
    executed = []
    right = GRAPHS[name] | {"text": {"class_type": "PrimitiveString", "inputs": {"value": "good"}}}
    server.run(right, lambda e: e["type"] == "executing" and executed.append(e["data"]["node"]))
    assert "node" in executed and TRAIN not in executed


def test_good_names_are_used(server: ComfyServer):
    graph = linked("linked/owl", "LoRA2Save", "filename_prefix", **saving(None))
    graph["report"] = {
        "class_type": "LoRA2Report",
        "inputs": REPORT | {"filename_prefix": ["text", 0]},
    }
    entry = server.run(graph)
    assert saved(server, "linked/owl") == ["owl_00001_.safetensors"]
    (told,) = entry["outputs"]["node"]["lora2_saved"]
    assert told["lora_name"] == "linked/owl_00001_.safetensors" and told["megabytes"] > 0
    assert told["ranks"] and all(isinstance(rank, int) for rank in told["ranks"].values())
    query = urlencode({key: told[key] for key in ("filename", "subfolder", "type")})
    with urlopen(f"{server.address}/view?{query}") as answer:
        data = answer.read()
    assert data == (server.base / "models/loras" / told["lora_name"]).read_bytes()
    assert (server.base / "output/linked/owl_00001_.report.png").is_file()


def test_a_value_that_no_field_holds_is_refused_before_the_training(server: ComfyServer):
    """NaN passes the host's own ranges, also where it is typed in."""
    graph = linked("x/y", "LoRA2Save", "filename_prefix", **saving(None) | {"max_mb": "nan"})
    with pytest.raises(ExecutionError, match="max_mb is nan: give a number from 0"):
        server.run(graph)
    assert not saved(server, "x/y")
