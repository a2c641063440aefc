"""LoRA² Dataset through the server: pictures put into the input folder, trained and saved."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from lora2_core import load
from lora2_core.playground import subjects
from tests.graphs import SAVE, TRAIN, Graph, quick_start
from tests.hosting.server import ComfyServer, ExecutionError

# The front end sends every widget.
WIDGETS = {
    "caption": "", "resolution": 32, "buckets": True, "flip": True, "crops": 0,
    "shuffle_tags": 0, "caption_dropout": 0.1, "seed": 0,
}  # fmt: skip


@pytest.fixture(scope="module")
def folder(server: ComfyServer) -> Path:
    """Six pictures of an owl: newer than the server's first look at its input folder."""
    folder = server.base / "input" / "owl"
    (folder / "2_round").mkdir(parents=True)
    images, captions = subjects.examples("owl", 6)
    for index, (image, caption) in enumerate(zip(images, captions, strict=True)):
        place = folder / "2_round" if index > 3 else folder
        pixels = (image.numpy() * 255).round().astype(np.uint8)
        Image.fromarray(pixels[:, : 20 if index == 0 else 32]).save(place / f"{index}.png")
        (place / f"{index}.txt").write_text(caption, encoding="utf-8")
    return folder


def training(**widgets) -> Graph:
    """Dataset, a short training, and the saved adapter."""
    graph = quick_start(steps=6, batch_size=2, target_rank=4, max_rank=8, name="from_folder")
    graph = {k: graph[k] for k in ("model", "dataset", TRAIN, SAVE)}
    inputs = {"folder": "owl", "clip": ["model", 1], "vae": ["model", 2]} | WIDGETS | widgets
    graph["dataset"] = {"class_type": "LoRA2Dataset", "inputs": inputs}
    return graph


def text(entry: dict, node: str) -> str:
    (shown,) = entry["outputs"][node]["text"]
    return shown


def test_a_folder_becomes_an_adapter(server: ComfyServer, folder: Path):
    progress = []
    entry = server.run(training(), lambda e: progress.append(e) if e["type"] == "progress" else 0)
    report = text(entry, "dataset")
    assert "owl: pictures 6, entries 18" in report
    assert "sizes: 24x40 (1), 32x32 (5)" in report
    assert "repeats: 1 (4), 2 (2)" in report
    assert "without caption: 2 entries" in report
    assert any(e["data"]["node"] == "dataset" for e in progress)
    name = text(entry, SAVE).split(" (")[0]
    lora = load(server.base / "models" / "loras" / name)
    assert len(lora.ranks) == 107
    # a new file runs Dataset again, from its cache
    (folder / "new.png").write_bytes((folder / "1.png").read_bytes())
    graph = training(caption="owl")
    report = text(server.run(graph), "dataset")
    assert "owl: pictures 7" in report and "cache: 14 of 14 latents" in report
    assert "1 without one: 'owl'" in report


def test_masks_of_a_folder_reach_the_training(server: ComfyServer, folder: Path):
    """Through the graph; another mask is another run."""
    graph = training(caption="owl", flip=False)
    inputs = {"prior_weight": 1.0, "mask_blur": 0.5, "mask_floor": 0.1, "masks": ["dataset", 3]}
    graph["masks"] = {"class_type": "LoRA2DataOptions", "inputs": inputs}
    graph[TRAIN]["inputs"]["options"] = ["masks", 0]
    losses = []
    for box in ((0, 0, 16, 32), (16, 0, 32, 32)):
        mask = Image.new("L", (32, 32))
        mask.paste(255, box)
        mask.save(folder / "2-masklabel.png")
        entry = server.run(graph)
        assert "masks: 1 from -masklabel files, " in text(entry, "dataset")
        losses.append(entry["outputs"][TRAIN]["lora2.train"][0]["points"])
    assert losses[0] != losses[1]
    (folder / "2-masklabel.png").unlink()


def test_a_changed_folder_is_read_again_and_an_unchanged_one_is_not(server, folder: Path):
    graph = {k: v for k, v in training(caption="owl").items() if k in ("model", "dataset")}
    again = []
    server.run(graph)
    server.run(graph, lambda e: again.append(e) if e["type"] == "execution_cached" else 0)
    assert "dataset" in again[0]["data"]["nodes"]
    (folder / "1.txt").write_text("changed, caption", encoding="utf-8")
    assert "captions" in text(server.run(graph), "dataset")
    again.clear()
    server.run(graph, lambda e: again.append(e) if e["type"] == "execution_cached" else 0)
    assert "dataset" in again[0]["data"]["nodes"]


@pytest.mark.parametrize(
    ("widgets", "sentence"),
    [
        ({"folder": "../outside"}, "leads out of the input folder: choose one inside"),
        ({"folder": "gone"}, "There is no folder 'gone' in the input folder"),
        ({"resolution": 16}, "resolution is 16, but this VAE needs at least 32: raise resolution"),
        ({"caption_dropout": "nan"}, "caption_dropout is nan: give a number from 0 to 0.5"),
        ({"crops": 101}, "101 bigger than max of 100: crops"),
    ],
)
def test_faults(server: ComfyServer, folder: Path, widgets: dict, sentence: str):
    with pytest.raises((ExecutionError, ValueError), match=sentence):
        server.run(training(**widgets))


def test_every_input_is_explained(server: ComfyServer):
    info = server.object_info()["LoRA2Dataset"]
    assert "image folder" in info["search_aliases"]
    inputs = info["input"]["required"] | info["input"].get("optional", {})
    assert len(inputs) == 14
    assert all(options["tooltip"] for _, options in inputs.values())
    assert info["output_is_list"] == [True, True, False, True]
