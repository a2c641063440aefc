"""LoRA² Report through the server: the page, the table, and where they are kept."""

import csv
import io

import pytest
from PIL import Image

from tests.graphs import SAVE, TRAIN, Graph, quick_start
from tests.hosting.server import ComfyServer, ExecutionError

STEPS = 6


def report(lora2: list, **inputs) -> Graph:
    """The node, and nodes that show what it gives."""
    given = {"save": False, "tensorboard": False, "filename_prefix": "lora2/reports/owl"}
    given |= {"lora2": lora2} | inputs
    return {
        "report": {"class_type": "LoRA2Report", "inputs": given},
        "table": {"class_type": "PreviewAny", "inputs": {"source": ["report", 1]}},
        "page": {
            "class_type": "SaveImage",
            "inputs": {"images": ["report", 0], "filename_prefix": "page"},
        },
    }


def training() -> Graph:
    graph = quick_start(steps=STEPS, batch_size=2, target_rank=4, max_rank=8, name="reported")
    return {k: graph[k] for k in ("model", "pictures", "dataset", TRAIN, SAVE)}


def steps_of(text: str) -> list[int]:
    lines = list(csv.reader(io.StringIO(text)))
    assert lines[0] == ["step", "loss", "mean_rank"]
    assert all(float(loss) > 0 and float(rank) > 0 for _, loss, rank in lines[1:])
    return [int(line[0]) for line in lines[1:]]


def test_a_training_is_told_and_kept_beside_its_file(server: ComfyServer):
    blank = {"width": 16, "height": 16, "batch_size": 2, "color": 0}
    blank = {"blank": {"class_type": "EmptyImage", "inputs": blank}}
    samples = {"before": ["blank", 0], "after": ["blank", 0]}
    entry = server.run(
        training() | blank | report([TRAIN, 0], save=True, lora_name=[SAVE, 0], **samples)
    )
    (text,) = entry["outputs"]["table"]["text"]
    assert steps_of(text) == list(range(1, STEPS + 1))
    name = entry["outputs"][SAVE]["text"][0].split(" (")[0]
    start = server.base / "models" / "loras" / name.removesuffix(".safetensors")
    with Image.open(f"{start}.report.png") as kept, Image.open(server.files(entry, "page")[0]) as p:
        assert kept.tobytes() == p.tobytes() and kept.width == 1024
    with open(f"{start}.report.csv", encoding="utf-8") as table:
        assert table.read() == text
    assert entry["outputs"]["report"]["images"]

    # the same from the file, into the output folder
    load = {
        "model": ["model", 0], "lora_name": name, "strength_model": 1.0, "strength_clip": 1.0,
        "keep": 1.0,
    }  # fmt: skip
    graph = {"model": training()["model"], "load": {"class_type": "LoRA2Load", "inputs": load}}
    for number in (1, 2):
        entry = server.run(graph | report(["load", 2], save=True, filename_prefix=f"x/owl{number}"))
        assert steps_of(entry["outputs"]["table"]["text"][0]) == list(range(1, STEPS + 1))
        found = sorted(p.name for p in (server.base / "output" / "x").glob(f"owl{number}*"))
        assert found == [f"owl{number}_00001_.report.csv", f"owl{number}_00001_.report.png"]


@pytest.mark.parametrize(
    ("inputs", "sentence"),
    [
        ({"lora_name": "gone.safetensors"}, "There is no file 'gone.safetensors' in the loras"),
        ({"lora_name": "../../x.safetensors", "save": True}, "There is no file"),
    ],
)
def test_faults(server: ComfyServer, inputs: dict, sentence: str):
    graph = {k: v for k, v in training().items() if k != SAVE}  # which would run by itself
    with pytest.raises((ExecutionError, ValueError), match=sentence):
        server.run(graph | report([TRAIN, 0], **inputs))


def test_a_bad_prefix_is_left_out_and_the_training_still_runs(server: ComfyServer):
    graph = {k: v for k, v in training().items() if k != SAVE}
    said = server.left_out(graph | report([TRAIN, 0], filename_prefix="../outside"))
    assert "'../outside' is no place in the output folder" in said


def test_every_input_is_explained(server: ComfyServer):
    info = server.object_info()["LoRA2Report"]
    assert {"loss curve", "csv", "tensorboard"} <= set(info["search_aliases"])
    inputs = info["input"]["required"] | info["input"]["optional"]
    assert len(inputs) == 7 and all(options["tooltip"] for _, options in inputs.values())
