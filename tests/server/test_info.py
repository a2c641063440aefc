"""LoRA² Info in the real server: a file that another trainer wrote, and one that is not there."""

import pytest
import safetensors.torch
import torch

from tests.hosting.server import ComfyServer, ExecutionError


def graph(name: str) -> dict:
    preview = {"source": ["info", 1]}
    return {
        "info": {"class_type": "LoRA2Info", "inputs": {"lora_name": name}},
        "table": {"class_type": "PreviewAny", "inputs": preview},
    }


def test_a_foreign_file_is_described(server: ComfyServer):
    base = "lora_unet_input_blocks_4_1_transformer_blocks_0_attn1_to_q"
    tensors = {
        f"{base}.lora_down.weight": torch.ones(2, 8), f"{base}.lora_up.weight": torch.ones(6, 2),
        f"{base}.alpha": torch.tensor(1.0),
    }  # fmt: skip
    path = server.base / "models" / "loras" / "foreign.safetensors"
    path.parent.mkdir(parents=True, exist_ok=True)
    metadata = {"ss_steps": "7", "ss_output_name": "<b>bold</b>"}
    safetensors.torch.save_file(tensors, path, metadata)
    outputs = server.run(graph("foreign.safetensors"))["outputs"]
    text = outputs["info"]["text"][0]
    assert text.startswith("foreign.safetensors: 0.00 MB in fp16, 1 layers") and "steps 7" in text
    assert f"| {base} | 2 | 6 | 6.928 |" in outputs["table"]["text"][0]


def test_a_missing_file_is_named(server: ComfyServer):
    with pytest.raises(ExecutionError, match=r"no file 'gone\.safetensors' in the loras folder"):
        server.run(graph("gone.safetensors"))
