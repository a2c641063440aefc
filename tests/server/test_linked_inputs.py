"""Names that come from another node: used where they are good, refused in one sentence before the
training where they are not.
"""

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
LOADED = {"model": ["model", 0], "strength_model": 1.0, "strength_clip": 1.0, "keep": 1.0}
SHOWN = {"class_type": "LoRA2RankHeatmap", "inputs": {"lora2": ["node", 2]}}
FOLDER = {
    "clip": ["model", 1], "vae": ["model", 2], "caption": "", "resolution": 32, "buckets": True,
    "flip": False, "crops": 0, "shuffle_tags": 0, "caption_dropout": 0.0, "seed": 0,
}  # fmt: skip
PROMPT = {"class_type": "CLIPTextEncode", "inputs": {"text": "an owl", "clip": ["model", 1]}}
GRAPHS = {
    "Save": linked(BAD, "LoRA2Save", "filename_prefix", **saving(None)),
    "Report": linked(BAD, "LoRA2Report", "filename_prefix", **REPORT),
    "Load": linked(BAD, "LoRA2Load", "lora_name", **LOADED) | {"shown": SHOWN},
    "Info": linked(BAD, "LoRA2Info", "lora_name"),
    "Dataset": linked(BAD, "LoRA2Dataset", "folder", **FOLDER),
    "Preview": of_train("LoRA2PreviewOptions", "filename_prefix", **PREVIEW) | {"prompt": PROMPT},
    "Start": of_train("LoRA2StartOptions", "lora_name", strength=1.0, adopt_layers=True),
    "Checkpoints": of_train("LoRA2CheckpointOptions", "name", **KEPT, resume="none"),
}


@pytest.mark.parametrize("name", GRAPHS)
def test_a_bad_name_ends_the_prompt_before_the_training(server: ComfyServer, name: str):
    events = []
    with pytest.raises(ExecutionError, match=r"'\.\./outside'") as caught:
        server.run(GRAPHS[name], lambda event: events.append(event["type"]))
    assert str(caught.value).count("\n") == 0 and "(node)" in str(caught.value)
    assert "lora2.train" not in events


def test_good_names_are_used(server: ComfyServer):
    graph = linked("linked/owl", "LoRA2Save", "filename_prefix", **saving(None))
    graph["report"] = {
        "class_type": "LoRA2Report",
        "inputs": REPORT | {"filename_prefix": ["text", 0]},
    }
    entry = server.run(graph)
    assert saved(server, "linked/owl") == ["owl_00001_.safetensors"]
    assert (server.base / "output/linked/owl_00001_.report.png").is_file()
    load = linked("linked/owl_00001_.safetensors", "LoRA2Load", "lora_name", **LOADED)
    entry = server.run({k: load[k] for k in ("model", "text", "node")} | {"shown": SHOWN})
    assert entry["outputs"]["shown"]["lora2_rank_map"]


def test_a_value_that_no_field_holds_is_refused_before_the_training(server: ComfyServer):
    """NaN passes the host's own ranges, also where it is typed in."""
    graph = linked("x/y", "LoRA2Save", "filename_prefix", **saving(None) | {"max_mb": "nan"})
    with pytest.raises(ExecutionError, match="max_mb is nan: give a number from 0"):
        server.run(graph)
    assert not saved(server, "x/y")
