"""A second base: a tiny transformer of the host's class SD3, with rectified flow, on the text
encoder and autoencoder of the playground.

It is no part of the pack. `nox -s train-flow` trains it into the cache; the experiments on ranks
use it to see whether what they find on the playground's UNet is also true of a transformer.
"""

from __future__ import annotations

import json
from pathlib import Path

import comfy.model_base
import comfy.model_management
import comfy.model_patcher
import comfy.supported_models
import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from lora2_core.host.playground import build_clip, build_vae, latent_format
from lora2_core.playground.asset import TEXT_WIDTH, Asset
from lora2_core.playground.autoencoder import LATENT_CHANNELS

FILE = "flow.safetensors"
DEPTH = 3  # the host's class makes it 64 wide and one attention head for each of these
BLOCKS = 4
SHAPE = {
    "in_channels": LATENT_CHANNELS, "patch_size": 2, "input_size": None, "depth": DEPTH,
    "num_blocks": BLOCKS, "mlp_ratio": 4.0, "qk_norm": "rms", "adm_in_channels": TEXT_WIDTH,
    "pos_embed_scaling_factor": None, "context_embedder_config": {
        "target": "torch.nn.Linear",
        "params": {"in_features": TEXT_WIDTH, "out_features": 64 * DEPTH},
    },
}  # fmt: skip


def build_model(asset: Asset, shape: dict | None = None) -> comfy.model_base.SD3:
    """Returns the transformer in the host's SD3 class, its weights without values. SD3's own shift
    of 3 is for pictures of many more tokens.
    """

    class Config(comfy.supported_models.SD3):
        sampling_settings = {"shift": 1.0}

    Config.latent_format = latent_format(asset.latent_scale, asset.latent_rgb)
    config = Config(dict(SHAPE if shape is None else shape))
    config.set_inference_dtype(torch.float32, None)
    return comfy.model_base.SD3(config)


def save_flow(path: Path, weights: dict[str, Tensor], shape: dict) -> None:
    """Writes weights as fp16, with the shape of the model."""
    tensors = {name: tensor.half().contiguous() for name, tensor in weights.items()}
    save_file(tensors, path, {"shape": json.dumps(shape)})


def load_flow_model(path: Path, asset: Asset, disable_dynamic: bool = True):
    """Returns the MODEL. Raises FileNotFoundError, with the command that trains it, where there is
    none.
    """
    if not path.exists():
        raise FileNotFoundError(f"{path} is missing: run `nox -s train-flow`.")
    with safe_open(path, "pt") as file:
        shape = json.loads(file.metadata()["shape"])
        weights = {name: file.get_tensor(name).float() for name in file.keys()}  # noqa: SIM118
    model = build_model(asset, shape)
    model.diffusion_model.load_state_dict(weights)
    patcher = comfy.model_patcher.ModelPatcher(
        model,
        load_device=comfy.model_management.get_torch_device(),
        offload_device=comfy.model_management.unet_offload_device(),
    )
    patcher.cached_patcher_init = load_flow_model, (path, asset)
    return patcher


def load_flow(path: Path, asset: Asset):
    """Returns (MODEL, CLIP, VAE); CLIP and VAE are the playground's."""
    clip = build_clip(asset.vocabulary)
    clip.cond_stage_model.clip_l.transformer.load_state_dict(asset.text)
    return load_flow_model(path, asset), clip, build_vae(asset.vae)
