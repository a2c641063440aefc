"""LoRA² Evaluate and Compare through the server, with an encoder in a folder of the host's."""

import torch
from transformers import ViTConfig, ViTImageProcessor, ViTModel

from tests.hosting.server import ComfyServer

PROMPTS = "owl, noto style\nowl, twemoji style"


def encoder(server: ComfyServer, name: str) -> None:
    """A small random ViT in models/clip_vision."""
    folder = server.base / "models" / "clip_vision" / name
    torch.manual_seed(0)
    size = {"image_size": 32, "patch_size": 8, "hidden_size": 32, "num_hidden_layers": 1}
    ViTModel(ViTConfig(**size, num_attention_heads=2, intermediate_size=64)).save_pretrained(folder)
    ViTImageProcessor(size={"height": 32, "width": 32}).save_pretrained(folder)


def judged(name: str, pictures: str, scores: list | None = None) -> dict:
    inputs = {
        "images": [pictures, 0], "references": ["owls", 0], "prompts": PROMPTS, "name": name,
        "clip_folder": "none", "dino_folder": "small-vit",
    }  # fmt: skip
    return {
        "class_type": "LoRA2Evaluate",
        "inputs": inputs | ({"scores": scores} if scores else {}),
    }


def test_two_lists_of_pictures_are_judged_and_compared(server: ComfyServer):
    encoder(server, "small-vit")
    assert "small-vit" in str(server.object_info()["LoRA2Evaluate"]["input"])
    graph = {
        name: {"class_type": "LoRA2ExamplePictures", "inputs": {"subject": kind, "pictures": 4}}
        for name, kind in (("owls", "owl"), ("foxes", "fox"))
    }
    graph["first"] = judged("owls", "owls")
    graph["second"] = judged("foxes", "foxes", scores=["first", 0])
    compare = {"scores": ["second", 0], "title": "Owls | $and$ foxes"}
    graph["compare"] = {"class_type": "LoRA2Compare", "inputs": compare}
    graph["csv"] = {"class_type": "PreviewAny", "inputs": {"source": ["compare", 2]}}
    entry = server.run(graph)
    (text,) = entry["outputs"]["csv"]["text"]
    rows = [line.split(",") for line in text.splitlines()]
    assert [row[0] for row in rows] == ["name", "owls", "foxes"]
    owls, foxes = (float(row[2]) for row in rows[1:])
    assert all(-1 <= score <= 1 for score in (owls, foxes)) and owls != foxes
    assert rows[1][3:] == ["", ""]
    assert server.files(entry, "compare")[0].is_file()
    assert entry["outputs"]["first"]["text"][0].startswith("owls: DINO 0.")
