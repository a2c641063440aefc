"""Flow models in the host's own classes, shrunk and randomly initialised, with data to train on."""

from __future__ import annotations

from dataclasses import dataclass

import comfy.model_base
import comfy.model_management
import comfy.supported_models
import torch
from comfy.model_base import ModelType
from comfy.model_patcher import ModelPatcher

FLUX = {
    "image_model": "flux", "in_channels": 16, "out_channels": 16, "patch_size": 2,
    "hidden_size": 48, "num_heads": 2, "depth": 2, "depth_single_blocks": 2, "mlp_ratio": 2.0,
    "context_in_dim": 24, "vec_in_dim": 20, "axes_dim": [8, 8, 8], "theta": 10000,
    "qkv_bias": True, "txt_ids_dims": [], "guidance_embed": True,
}  # fmt: skip
SD3 = {
    "in_channels": 16, "patch_size": 2, "depth": 2, "input_size": None, "adm_in_channels": 20,
    "num_patches": 64, "pos_embed_max_size": 8, "pos_embed_scaling_factor": None,
    "qk_norm": "rms", "x_block_self_attn_layers": [0], "context_processor_layers": 1,
    "context_size": 64, "mlp_ratio": 2.0,
    "context_embedder_config": {
        "target": "torch.nn.Linear", "params": {"in_features": 64, "out_features": 128},
    },
}  # fmt: skip
LUMINA = {
    "image_model": "lumina2", "patch_size": 2, "in_channels": 16, "dim": 48, "cap_feat_dim": 24,
    "n_layers": 2, "n_refiner_layers": 1, "n_heads": 4, "n_kv_heads": 2, "qk_norm": True,
    "axes_dims": [4, 4, 4], "axes_lens": [64, 64, 64], "multiple_of": 16, "rope_theta": 10000.0,
    "ffn_dim_multiplier": 1.0,
}  # fmt: skip
Z_IMAGE = LUMINA | {
    "dim": 256, "axes_dims": [24, 20, 20], "n_layers": 1, "n_kv_heads": 4,
    "rope_theta": 256.0, "z_image_modulation": True, "time_scale": 1000.0,
    "pad_tokens_multiple": 8, "norm_eps": 1e-5,
}  # fmt: skip
QWEN = {
    "image_model": "qwen_image", "in_channels": 64, "out_channels": 16, "num_layers": 2,
    "attention_head_dim": 24, "num_attention_heads": 2, "joint_attention_dim": 24,
    "axes_dims_rope": (8, 8, 8),
}  # fmt: skip
CHROMA = FLUX | {
    "image_model": "chroma", "in_channels": 64, "out_channels": 64, "in_dim": 64, "out_dim": 48,
    "hidden_dim": 32, "n_layers": 2,
}  # fmt: skip
del CHROMA["guidance_embed"]
FLUX2 = FLUX | {
    "image_model": "flux2", "in_channels": 128, "out_channels": 128, "patch_size": 1,
    "axes_dim": [6, 6, 6, 6], "vec_in_dim": None, "global_modulation": True, "mlp_silu_act": True,
    "qkv_bias": False, "ops_bias": False, "default_ref_method": "index", "ref_index_scale": 10.0,
    "txt_ids_dims": [3], "guidance_embed": False,
}  # fmt: skip
WAN = {
    "image_model": "wan2.1", "model_type": "t2v", "dim": 48, "out_dim": 16, "num_heads": 2,
    "ffn_dim": 64, "num_layers": 2, "patch_size": (1, 2, 2), "freq_dim": 64, "in_dim": 16,
    "window_size": (-1, -1), "qk_norm": True, "cross_attn_norm": True, "eps": 1e-6, "text_dim": 24,
    "text_len": 16,
}  # fmt: skip
LTX = {
    "image_model": "ltxv", "in_channels": 128, "cross_attention_dim": 24, "attention_head_dim": 12,
    "num_attention_heads": 2, "caption_channels": 24, "num_layers": 2,
}  # fmt: skip


@dataclass(frozen=True)
class Family:
    """One kind of model: the host's classes, its shrunken shape and how many layers are trained.

    `idle` matches those whose output the model doesn't use: text that no later block reads.
    """

    config: type
    model: type
    shape: dict
    kind: ModelType
    layers: int
    pooled: bool = False
    context: int = 24
    latent: tuple[int, ...] = (16, 8, 8)
    idle: str = r"\0"


configs, models = comfy.supported_models, comfy.model_base
FAMILIES = {
    "Flux": Family(configs.Flux, models.Flux, FLUX, ModelType.FLUX, 12, pooled=True),
    "Flux 2": Family(
        configs.Flux2, models.Flux2, FLUX2, ModelType.FLUX, 12, latent=(128, 4, 4)
    ),
    "Chroma": Family(configs.Chroma, models.Chroma, CHROMA, ModelType.FLUX, 12),
    "SD3": Family(configs.SD3, models.SD3, SD3, ModelType.FLOW, 11, pooled=True, context=64),
    "Lumina 2": Family(configs.Lumina2, models.Lumina2, LUMINA, ModelType.FLOW, 8),
    "Z-Image": Family(configs.ZImage, models.Lumina2, Z_IMAGE, ModelType.FLOW, 6),
    "Qwen-Image": Family(
        configs.QwenImage, models.QwenImage, QWEN, ModelType.FLUX, 16, latent=(16, 1, 8, 8),
        idle=r"blocks\.1\.attn\.(add_q_proj|to_add_out)$",
    ),
    "Wan 2.1": Family(
        configs.WAN21_T2V, models.WAN21, WAN, ModelType.FLOW, 16, latent=(16, 2, 8, 8)
    ),
}  # fmt: skip
LTXV = Family(configs.LTXV, models.LTXV, LTX, ModelType.FLUX, layers=16)


def build(name: str | Family, dtype: torch.dtype = torch.float32) -> ModelPatcher:
    """The host's own model class, weights drawn so that activations keep their size."""
    family = name if isinstance(name, Family) else FAMILIES[name]
    conf = family.config(dict(family.shape))
    conf.unet_config.update(family.shape)
    conf.set_inference_dtype(dtype, None)
    model = family.model(conf, model_type=family.kind)
    generator = torch.Generator().manual_seed(0)
    for parameter in model.diffusion_model.parameters():
        scale = 0.5 * parameter[0].numel() ** -0.5 if parameter.ndim > 1 else 0.02
        noise = torch.randn(parameter.shape, generator=generator) * scale
        parameter.data.copy_(noise + (parameter.ndim == 1))
    for buffer in model.diffusion_model.buffers():
        buffer.data.copy_(torch.randn(buffer.shape, generator=generator) * 0.02)
    device = comfy.model_management.get_torch_device()
    return ModelPatcher(model, load_device=device, offload_device=device)


def pictures(name: str, count: int = 2) -> tuple[list[dict], list[list]]:
    """LATENTs of random pictures, and one caption for all."""
    family, generator = FAMILIES[name], torch.Generator().manual_seed(1)
    shape = count, *family.latent
    facts = {"pooled_output": torch.randn(1, 20, generator=generator)} if family.pooled else {}
    caption = torch.randn(1, 6, family.context, generator=generator)
    return [{"samples": torch.randn(shape, generator=generator)}], [[[caption, facts]]]
