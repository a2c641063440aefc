"""The playground's only file: the weights of UNet, text encoder and autoencoder, and their
configurations.

Plain torch and safetensors; `lora2_core.host.playground` makes the host's own objects of it.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from ..files.tensor_file import read

PATH = Path(__file__).with_name("playground.safetensors")
# width of the text embeddings
TEXT_WIDTH = 128
# width of each of the six size embeddings (256 in SDXL itself)
SIZE_EMBEDDING = 32

UNET_CONFIG = {
    "image_size": 32,
    "in_channels": 8,
    "out_channels": 8,
    "model_channels": 96,
    "channel_mult": (1, 1),
    "num_res_blocks": [1, 1],
    "transformer_depth": [1, 1],
    "transformer_depth_middle": 1,
    "transformer_depth_output": [1, 1, 1, 1],
    "context_dim": TEXT_WIDTH,
    "adm_in_channels": TEXT_WIDTH + 6 * SIZE_EMBEDDING,
    "num_classes": "sequential",
    "use_spatial_transformer": True,
    "use_linear_in_transformer": True,
    "use_temporal_attention": False,
    "use_checkpoint": False,
    "legacy": False,
}
HEAD_CHANNELS = 32


def text_config(max_length: int) -> dict:
    """Returns the text encoder's configuration, with CLIP's keys."""
    return {
        "hidden_size": TEXT_WIDTH,
        "intermediate_size": 4 * TEXT_WIDTH,
        "num_attention_heads": 4,
        "num_hidden_layers": 2,
        "hidden_act": "gelu",
        "max_position_embeddings": max_length,
        "eos_token_id": 1,
    }


@dataclass(frozen=True)
class Asset:
    """The tensors of each part, by name, and the metadata of the file.

    latent_scale: a factor that brings latents to about unit variance. latent_rgb: [latent channels
    + 1][3], a linear picture of a latent; its last row is the bias.
    """

    unet: dict[str, Tensor]
    text: dict[str, Tensor]
    vae: dict[str, Tensor]
    vocabulary: list[str]
    latent_scale: float
    latent_rgb: list[list[float]]


def load(path: Path = PATH) -> Asset:
    """Reads the asset. Raises FileNotFoundError, with the command that makes it, when it is
    missing.
    """
    if not path.exists():
        raise FileNotFoundError(
            f"{path.name} is missing from the pack: run `nox -s train-playground` or reinstall."
        )
    parts: dict[str, Any] = {"unet": {}, "text": {}, "vae": {}}
    header, payload = read(path)
    facts = json.loads(header.metadata["playground"])
    for key, tensor in header.tensors(payload).items():
        part, name = key.split(".", 1)
        parts[part][name] = tensor.float()
    return Asset(**parts, **facts)
