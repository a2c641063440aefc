"""The whole path through HTTP and the websocket: train, see the ranks, save, load, sample."""

from pathlib import Path

import numpy as np
import pytest

from tests.graphs import AFTER, BEFORE, HEATMAP, SAVE, TRAIN, Graph, quick_start
from tests.hosting.server import ComfyServer, ExecutionError

STEPS = 12


def short(**options) -> Graph:
    """The quick start with few steps, for training and sampling."""
    graph = quick_start(steps=STEPS, batch_size=2, target_rank=4, max_rank=8, **options)
    for node in graph.values():
        if node["class_type"] == "KSampler":
            node["inputs"]["steps"] = 3
    return graph


def loras(server: ComfyServer) -> list[Path]:
    return sorted((server.base / "models" / "loras").rglob("*.safetensors"))


@pytest.fixture(scope="module")
def run(server: ComfyServer) -> tuple[dict, list[dict]]:
    """The history entry of one quick start, and its live events."""
    events = []
    entry = server.run(short(name="quick"), events.append)
    kinds = [e["type"] for e in events]
    assert kinds.index("lora2.train_begun") < kinds.index("lora2.train")
    return entry, [e["data"] for e in events if e["type"] == "lora2.train"]


def test_live_events_tell_the_run(run):
    _, everything = run
    # without those that were sent again, since steps are slow
    events = [e for i, e in enumerate(everything) if e not in everything[:i]]
    assert events[-1]["step"] == events[-1]["steps"] == STEPS
    assert {e["node"] for e in everything} == {TRAIN}
    steps = [e["step"] for e in events]
    # the last one twice where the finished adapter has other ranks
    assert steps == sorted(steps) and len(steps) - len(set(steps)) == steps.count(STEPS) - 1
    assert events[-1]["mean_rank"] <= 4.001
    assert events[-1]["text"].startswith(f"step {STEPS}/{STEPS}, loss ")
    assert events[-1]["text"].endswith(f"{events[-1]['mb']:.2f} MB")
    assert all(e["loss"] > 0 and e["mean_rank"] > 0 and e["mb"] > 0 for e in events)
    assert len(events[-1]["ranks"]) == 107


def test_the_heatmap_is_a_picture_and_a_map(run, server: ComfyServer):
    entry, _ = run
    (picture,) = server.files(entry, HEATMAP)
    assert picture.stat().st_size > 10_000
    (table,) = entry["outputs"]["heatmap"]["lora2_rank_map"]
    assert len(table["cells"]) == 107
    assert table["columns"][:8] == [
        f"{a} {m}" for a in ("self", "cross") for m in ("q", "k", "v", "out")
    ]
    one_rank = 90_704  # bytes in fp16
    assert sum(cell["bytes"] for cell in table["cells"]) <= 4 * one_rank


def test_samples_differ_after_training(run, server: ComfyServer):
    entry, _ = run
    before, after = server.files(entry, BEFORE), server.files(entry, AFTER)
    assert len(before) == len(after) == 4
    assert [p.read_bytes() for p in before] != [p.read_bytes() for p in after]


def test_the_file_loads_alike_in_the_stock_loader_and_in_ours(run, server: ComfyServer):
    """Same seed, same prompt: the same pictures to the byte as those of the trained MODEL."""
    entry, _ = run
    (text,) = entry["outputs"][SAVE]["text"]
    name = text.split(" (")[0]
    assert (server.base / "models" / "loras" / name).is_file()
    graph = {k: v for k, v in short().items() if k in ("model", "prompt", "nothing", "noise")}
    for kind, loader in (
        (
            "stock",
            {
                "class_type": "LoraLoader",
                "inputs": {"strength_model": 1.0, "strength_clip": 1.0, "clip": ["model", 1]},
            },
        ),
        (
            "ours",
            {
                "class_type": "LoRA2Load",
                "inputs": {"strength_model": 1.0, "strength_clip": 1.0, "keep": 1.0},
            },
        ),
    ):
        loader["inputs"] |= {"model": ["model", 0], "lora_name": name}
        graph |= {
            kind: loader,
            f"{kind} sampler": {
                "class_type": "KSampler",
                "inputs": {
                    "model": [kind, 0],
                    "seed": 0,
                    "steps": 3,
                    "cfg": 4.0,
                    "sampler_name": "euler",
                    "scheduler": "normal",
                    "positive": ["prompt", 0],
                    "negative": ["nothing", 0],
                    "latent_image": ["noise", 0],
                    "denoise": 1.0,
                },
            },
            f"{kind} decode": {
                "class_type": "VAEDecode",
                "inputs": {"samples": [f"{kind} sampler", 0], "vae": ["model", 2]},
            },
            f"{kind} save": {
                "class_type": "SaveImage",
                "inputs": {"images": [f"{kind} decode", 0], "filename_prefix": kind},
            },
        }
    loaded = server.run(graph)
    stock, ours = (server.files(loaded, f"{kind} save") for kind in ("stock", "ours"))
    for theirs, own in zip(stock, ours, strict=True):
        # the scale alpha / rank is multiplied at another moment, which may round otherwise
        assert np.abs(pixels(theirs) - pixels(own)).max() <= 1


def pixels(path: Path) -> np.ndarray:
    """What a PNG shows, signed."""
    from PIL import Image

    return np.asarray(Image.open(path)).astype(int)


def test_cancelling_keeps_what_was_learned_and_the_next_prompt_runs(server: ComfyServer):
    graph, before, seen = short(name="cancelled", seed=5), loras(server), []
    graph[TRAIN]["inputs"]["steps"] = 100_000

    def cancel(event: dict) -> None:
        if event["type"] == "lora2.train" and not seen:
            seen.append(event["data"]["step"])
            server.interrupt()

    with pytest.raises(ExecutionError, match="(?i)interrupt"):
        server.run(graph, cancel)
    (kept,) = set(loras(server)) - set(before)
    assert kept.parent.name == "lora2" and kept.name.startswith("interrupted_")

    from lora2_core import load

    assert len(load(kept).ranks) == 107
    server.run(short(name="next", seed=6))


def test_a_fault_is_one_sentence_before_any_training(server: ComfyServer):
    graph, events = short(), []
    graph[TRAIN]["inputs"] |= {"target_rank": 16, "max_rank": 8}
    with pytest.raises(ExecutionError, match="max_rank 8 is below target_rank 16: raise max_rank"):
        server.run(graph, events.append)
    assert not [e for e in events if e["type"] == "lora2.train"]
