"""Words that people type who look for a node: the front end searches names and aliases."""

import pytest

from tests.hosting.server import ComfyServer

WORDS = {
    "dataset folder": "LoRA2Dataset",
    "load images": "LoRA2Dataset",
    "image folder": "LoRA2Dataset",
    "learning rate": "LoRA2Train",
    "epochs": "LoRA2Train",
    "batch size": "LoRA2Train",
    "sdxl train": "LoRA2Train",
    "train sdxl": "LoRA2Train",
    "flux train": "LoRA2Train",
    "finetune": "LoRA2Train",
    "fine-tune": "LoRA2Train",
    "network dim": "LoRA2Train",
    "lora trainer": "LoRA2Train",
    "prune": "LoRA2Compress",
    "resize lora": "LoRA2Compress",
    "shrink lora": "LoRA2Compress",
    "load lora": "LoRA2Load",
    "merge loras": "LoRA2Merge",
    "extract lora": "LoRA2Extract",
    "save lora": "LoRA2Save",
    "resume": "LoRA2CheckpointOptions",
    "warmup": "LoRA2OptimizerOptions",
    "vram": "LoRA2MemoryOptions",
    "trigger words": "LoRA2Info",
}


@pytest.fixture(scope="module")
def searched(server: ComfyServer) -> dict[str, list[str]]:
    """What the front end searches, by node."""
    nodes = server.object_info()
    return {
        kind: [kind, node["display_name"], *(node.get("search_aliases") or [])]
        for kind, node in nodes.items()
    }


@pytest.mark.parametrize("words", WORDS)
def test_a_word_finds_its_node(searched: dict[str, list[str]], words: str) -> None:
    assert any(words in text.lower() for text in searched[WORDS[words]])
