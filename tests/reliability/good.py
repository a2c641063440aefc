"""Adapter files that must be read: every naming, kind of layer, precision and alpha of the programs
that write LoRAs.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from pathlib import Path

import safetensors.torch
import torch
from torch import Tensor

# program -> (base names, ending of lora_up, of lora_down)
NAMINGS = {
    "kohya": (
        ["lora_unet_down_blocks_0_attentions_0_proj_in", "lora_te1_text_model_layers_0_fc1"],
        ".lora_up.weight", ".lora_down.weight",
    ),
    "kohya sgm": (["lora_unet_input_blocks_4_1_proj_in"], ".lora_up.weight", ".lora_down.weight"),
    "diffusers 1": (
        ["unet.down_blocks.0.attentions.0.transformer_blocks.0.attn1.processor.to_q_lora"],
        ".up.weight", ".down.weight",
    ),
    "diffusers 2": (["unet.mid_block.attn.to_q"], ".lora.up.weight", ".lora.down.weight"),
    "diffusers 3": (["unet.mid_block.attn.to_q"], ".lora_B.weight", ".lora_A.weight"),
    "diffusers text": (
        ["text_encoder.layers.0.q_proj"],
        ".lora_linear_layer.up.weight", ".lora_linear_layer.down.weight",
    ),
    "PEFT": (["base_model.model.blocks.0.q"], ".lora_B.weight", ".lora_A.weight"),
    "PEFT default": (["base_model.model.x"], ".lora_B.default.weight", ".lora_A.default.weight"),
    "transformer": (["transformer.blocks.0.attn.to_q"], ".lora_B.weight", ".lora_A.weight"),
    "host": (["diffusion_model.blocks.0.q"], ".lora_B.weight", ".lora_A.weight"),
    "LyCORIS": (["lycoris_unet_mid_attn_to_q"], ".lora_up.weight", ".lora_down.weight"),
}  # fmt: skip
DTYPES = (torch.float16, torch.bfloat16, torch.float32)
KINDS = ("linear", "conv1", "conv3", "mid")
ALPHAS = (None, 1.0, "rank")
METADATA = {"ss_network_dim": "4", "ss_tag_frequency": '{"owl": {"ünïcode, ✓": 3}}', "format": "pt"}


def pair(kind: str, rank: int, generator: torch.Generator) -> dict[str, Tensor]:
    """lora_up, lora_down, and lora_mid where there is one."""

    def draw(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator)

    if kind == "linear":
        return {"up": draw(12, rank), "down": draw(rank, 10)}
    side = 3 if kind == "conv3" else 1
    parts = {"up": draw(12, rank, 1, 1), "down": draw(rank, 10, side, side)}
    return parts | {"mid": draw(rank, rank, 3, 3)} if kind == "mid" else parts


def tensors_of(
    naming: str, kind: str, dtype: torch.dtype, alpha: object, seed: int
) -> dict[str, Tensor]:
    """A file's tensors; every layer has a rank of its own."""
    bases, up, down = NAMINGS[naming]
    generator = torch.Generator().manual_seed(seed)
    found = {}
    for number, base in enumerate(bases):
        rank = 2 + (seed + number) % 5
        parts = pair(kind, rank, generator)
        found[base + up], found[base + down] = parts["up"], parts["down"]
        if "mid" in parts:
            found[f"{base}.lora_mid.weight"] = parts["mid"]
        if alpha is not None:
            value = rank if alpha == "rank" else alpha
            found[f"{base.removesuffix('_lora')}.alpha"] = torch.tensor(float(value))
    return {key: tensor.to(dtype).contiguous() for key, tensor in found.items()}


def good_files(folder: Path) -> Iterator[tuple[str, Path, int]]:
    """(what it is, file, its layers): each combination that a program writes."""
    choices = itertools.product(NAMINGS, KINDS, DTYPES, ALPHAS)
    for seed, (naming, kind, dtype, alpha) in enumerate(choices):
        if kind == "mid" and NAMINGS[naming][1] != ".lora_up.weight":
            continue  # LoCon's own names
        path = folder / f"{seed}.safetensors"
        tensors = tensors_of(naming, kind, dtype, alpha, seed)
        safetensors.torch.save_file(tensors, path, METADATA if seed % 2 else None)
        yield f"{naming}, {kind}, {dtype}, alpha {alpha}", path, len(NAMINGS[naming][0])
