"""LoRA² Compress through the server: from a file and from a training, saved and sampled."""

import pytest

from lora2_core import load
from tests.graphs import SAVE, TRAIN, Graph, quick_start
from tests.hosting.server import ComfyServer, ExecutionError


def training() -> Graph:
    """A short training that saves its adapter."""
    graph = quick_start(steps=6, batch_size=2, mode="fixed", target_rank=8, name="plain")
    return {k: graph[k] for k in ("model", "pictures", "dataset", TRAIN, SAVE)}


def with_compress(graph: Graph, **inputs) -> Graph:
    """Adds the node, and one that saves what it gives."""
    compress = {"class_type": "LoRA2Compress", "inputs": inputs}
    save = {"lora2": ["compress", 0], "filename_prefix": "lora2/small", "dtype": "fp32"}
    save |= {"format": "kohya", "max_mb": 0.0}
    return graph | {"compress": compress, "small": {"class_type": "LoRA2Save", "inputs": save}}


def saved(server: ComfyServer, entry: dict, node: str) -> str:
    """The name of the file that a LoRA2Save wrote."""
    return entry["outputs"][node]["text"][0].split(" (")[0]


@pytest.fixture(scope="module")
def plain(server: ComfyServer) -> str:
    return saved(server, server.run(training()), SAVE)


def test_a_file_becomes_smaller_and_samples(server: ComfyServer, plain: str):
    graph = quick_start(steps=6, batch_size=2)
    graph = {k: graph[k] for k in ("model", "prompt", "nothing", "noise")}
    graph = with_compress(graph, lora_name=plain, budget_mb=0.06, tolerance=0.1)
    apply = {"model": ["model", 0], "lora2": ["compress", 0]}
    apply |= {"strength_model": 1.0, "strength_clip": 1.0, "keep": 1.0}
    graph["apply"] = {"class_type": "LoRA2Apply", "inputs": apply}
    sampler = {
        "model": ["apply", 0], "seed": 0, "steps": 2, "cfg": 4.0, "sampler_name": "euler",
        "scheduler": "normal", "positive": ["prompt", 0], "negative": ["nothing", 0],
        "latent_image": ["noise", 0], "denoise": 1.0,
    }  # fmt: skip
    graph["sampler"] = {"class_type": "KSampler", "inputs": sampler}
    decode = {"samples": ["sampler", 0], "vae": ["model", 2]}
    graph["decode"] = {"class_type": "VAEDecode", "inputs": decode}
    pictures = {"images": ["decode", 0], "filename_prefix": "small"}
    graph["pictures"] = {"class_type": "SaveImage", "inputs": pictures}
    entry = server.run(graph)
    assert len(server.files(entry, "pictures")) == 4
    assert "MB, relative error" in entry["outputs"]["compress"]["text"][0]
    folder = server.base / "models" / "loras"
    before, after = load(folder / plain), load(folder / saved(server, entry, "small"))
    assert after.megabytes() <= 0.06 < before.megabytes()
    assert list(after.layers) == list(before.layers)
    assert len(set(after.ranks.values())) > 1 == len(set(before.ranks.values()))


def test_a_training_is_connected_directly(server: ComfyServer):
    """The file of the list need not even be there."""
    graph = with_compress(
        training(), lora=[TRAIN, 1], lora_name="gone.safetensors", budget_mb=0.0, tolerance=0.2
    )
    entry = server.run(graph)
    after = load(server.base / "models" / "loras" / saved(server, entry, "small"))
    assert after.origin.run.settings["compressed"]["error"] <= 0.2


@pytest.mark.parametrize(
    ("inputs", "sentence"),
    [
        ({"tolerance": 0.0, "budget_mb": 0.0}, "budget_mb and tolerance are both 0"),
        ({"tolerance": 2.0, "budget_mb": 0.0}, "(?s)tolerance.*bigger than max|tolerance"),
        ({"lora_name": "gone.safetensors", "budget_mb": 0.0, "tolerance": 0.1}, "There is no file"),
    ],
)
def test_faults(server: ComfyServer, plain: str, inputs: dict, sentence: str):
    with pytest.raises((ExecutionError, ValueError), match=sentence):
        server.run(with_compress({}, **({"lora_name": plain} | inputs)))
