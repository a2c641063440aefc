"""LoRA² Info in the real server: a file that another trainer wrote, a training, and faults."""

import pytest
import safetensors.torch
import torch
from PIL import Image

from tests.graphs import TRAIN, Graph, quick_start
from tests.hosting.server import ComfyServer, ExecutionError

BASE = "lora_unet_input_blocks_4_1_transformer_blocks_{}_attn1_to_q"
BLOCKS = (10, 0, 2)


def graph(**inputs) -> Graph:
    """The node, and one that shows each of what it gives."""
    nodes = {"info": {"class_type": "LoRA2Info", "inputs": inputs}}
    for i, name in enumerate(("picture", "table", "metadata")):
        nodes[name] = {"class_type": "PreviewAny", "inputs": {"source": ["info", i]}}
    save = {"images": ["info", 0], "filename_prefix": "info"}
    return nodes | {"picture": {"class_type": "SaveImage", "inputs": save}}


@pytest.fixture
def foreign(server: ComfyServer) -> str:
    """The name of a file as another trainer writes it."""
    tensors = {}
    for block in BLOCKS:
        base = BASE.format(block)
        tensors |= {
            f"{base}.lora_down.weight": torch.ones(2, 8),
            f"{base}.lora_up.weight": torch.ones(6, 2),
            f"{base}.alpha": torch.tensor(1.0),
        }
    path = server.base / "models" / "loras" / "foreign.safetensors"
    path.parent.mkdir(parents=True, exist_ok=True)
    metadata = {"ss_steps": "7", "ss_output_name": "<b>bold</b>", "another": "[1]"}
    safetensors.torch.save_file(tensors, path, metadata)
    return path.name


def test_a_foreign_file_is_described(server: ComfyServer, foreign: str):
    entry = server.run(graph(lora_name=foreign))
    outputs = entry["outputs"]
    text = outputs["info"]["text"][0]
    assert text.startswith("foreign.safetensors: 0.00 MB (0.00 MB in fp16), 3 layers")
    assert "steps 7" in text
    lines = outputs["table"]["text"][0].splitlines()
    wanted = [f"| {BASE.format(block)} | 2 | 1 / 2 | 6.928 |" for block in sorted(BLOCKS)]
    assert [line[: len(want)] for line, want in zip(lines[2:], wanted, strict=False)] == wanted
    said = outputs["metadata"]["text"][0].splitlines()
    assert said[:2] == ["ss_output_name: <b>bold</b>", "ss_steps: 7"]
    (path,) = server.files(entry, "picture")
    with Image.open(path) as picture:
        assert picture.width > 1024 and picture.height > 150


def test_a_training_is_described_whatever_the_list_says(server: ComfyServer):
    run = quick_start(steps=6, batch_size=2)
    run = {k: run[k] for k in ("model", "pictures", "dataset", TRAIN)}
    outputs = server.run(run | graph(lora2=[TRAIN, 0], lora_name="gone.safetensors"))["outputs"]
    assert outputs["info"]["text"][0].startswith("adapter: ")
    assert "ss_steps: 6" in outputs["metadata"]["text"][0]


@pytest.mark.parametrize(
    ("inputs", "sentence"),
    [
        ({"lora_name": "gone.safetensors"}, r"no file 'gone\.safetensors' in the loras folder"),
        ({}, "lora_name is None and lora2 is not connected: choose a file"),
    ],
)
def test_faults(server: ComfyServer, inputs: dict, sentence: str):
    with pytest.raises(ExecutionError, match=sentence):
        server.run(graph(**inputs))
