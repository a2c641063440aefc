"""Models of real size in the host's own classes, their weights uninitialised: nothing computes."""

from __future__ import annotations

from dataclasses import dataclass, field

import comfy.model_base
import comfy.model_management
import comfy.supported_models
import torch
from comfy.model_base import ModelType
from comfy.model_patcher import ModelPatcher

from tests.benchmarks.speed.models import FULL, SD15, SMALL

configs, kinds = comfy.supported_models, comfy.model_base
FLUX = {
    "image_model": "flux", "in_channels": 16, "out_channels": 16, "patch_size": 2,
    "hidden_size": 3072, "num_heads": 24, "depth": 19, "depth_single_blocks": 38,
    "mlp_ratio": 4.0, "context_in_dim": 4096, "vec_in_dim": 768, "axes_dim": [16, 56, 56],
    "theta": 10000, "qkv_bias": True, "txt_ids_dims": [], "guidance_embed": True,
}  # fmt: skip
QWEN = {
    "image_model": "qwen_image", "in_channels": 64, "out_channels": 16, "num_layers": 60,
    "attention_head_dim": 128, "num_attention_heads": 24, "joint_attention_dim": 3584,
    "axes_dims_rope": (16, 56, 56),
}  # fmt: skip
WAN = {
    "image_model": "wan2.1", "model_type": "t2v", "dim": 5120, "out_dim": 16, "num_heads": 40,
    "ffn_dim": 13824, "num_layers": 40, "patch_size": (1, 2, 2), "freq_dim": 256, "in_dim": 16,
    "window_size": (-1, -1), "qk_norm": True, "cross_attn_norm": True, "eps": 1e-6,
    "text_dim": 4096, "text_len": 512,
}  # fmt: skip
Z_IMAGE = {
    "image_model": "lumina2", "patch_size": 2, "in_channels": 16, "dim": 3840,
    "cap_feat_dim": 2560, "n_layers": 30, "n_refiner_layers": 2, "n_heads": 30, "n_kv_heads": 30,
    "qk_norm": True, "axes_dims": [32, 48, 48], "axes_lens": [1536, 512, 512], "multiple_of": 256,
    "ffn_dim_multiplier": 8.0 / 3.0, "rope_theta": 256.0, "z_image_modulation": True,
    "time_scale": 1000.0, "pad_tokens_multiple": 32, "norm_eps": 1e-5,
}  # fmt: skip
CHROMA = {k: v for k, v in FLUX.items() if k != "guidance_embed"} | {
    "image_model": "chroma", "in_channels": 64, "out_channels": 64, "in_dim": 64, "out_dim": 3072,
    "hidden_dim": 5120, "n_layers": 5,
}  # fmt: skip
SD35 = {  # large
    "in_channels": 16, "patch_size": 2, "depth": 38, "input_size": None, "adm_in_channels": 2048,
    "num_patches": 36864, "pos_embed_max_size": 192, "pos_embed_scaling_factor": None,
    "qk_norm": "rms", "context_embedder_config": {
        "target": "torch.nn.Linear", "params": {"in_features": 4096, "out_features": 2432},
    },
}  # fmt: skip
LTX = {
    "image_model": "ltxv", "in_channels": 128, "cross_attention_dim": 2048,
    "attention_head_dim": 64, "num_attention_heads": 32, "caption_channels": 4096,
    "num_layers": 28,
}  # fmt: skip
LUMINA = {
    "image_model": "lumina2", "patch_size": 2, "in_channels": 16, "dim": 2304,
    "cap_feat_dim": 2304, "n_layers": 26, "n_refiner_layers": 2, "n_heads": 24, "n_kv_heads": 8,
    "qk_norm": True, "axes_dims": [32, 32, 32], "axes_lens": [300, 512, 512], "multiple_of": 256,
    "ffn_dim_multiplier": None, "rope_theta": 10000.0, "norm_eps": 1e-5,
}  # fmt: skip
COSMOS = {
    "image_model": "cosmos_predict2", "max_img_h": 240, "max_img_w": 240, "max_frames": 128,
    "in_channels": 16, "out_channels": 16, "patch_spatial": 2, "patch_temporal": 1,
    "model_channels": 2048, "num_blocks": 28, "num_heads": 16, "crossattn_emb_channels": 1024,
    "pos_emb_cls": "rope3d", "pos_emb_interpolation": "crop", "use_adaln_lora": True,
    "adaln_lora_dim": 256, "concat_padding_mask": True, "mlp_ratio": 4.0,
}  # fmt: skip
HUNYUAN = {
    "image_model": "hunyuan_video", "in_channels": 16, "out_channels": 16, "patch_size": [1, 2, 2],
    "hidden_size": 3072, "num_heads": 24, "depth": 20, "depth_single_blocks": 40,
    "mlp_ratio": 4.0, "context_in_dim": 4096, "vec_in_dim": 768, "axes_dim": [16, 56, 56],
    "theta": 256, "qkv_bias": True, "guidance_embed": True, "byt5": False, "meanflow": False,
    "use_cond_type_embedding": False, "vision_in_dim": None, "meanflow_sum": False,
}  # fmt: skip
PIXART = {
    "image_model": "pixart_sigma", "input_size": 128, "hidden_size": 1152, "depth": 28,
    "num_heads": 16, "caption_channels": 4096, "pe_interpolation": 2, "micro_condition": False,
    "model_max_length": 300,
}  # fmt: skip
SHRUNK = FLUX | {"hidden_size": 768, "num_heads": 6, "depth": 2, "depth_single_blocks": 4}


@dataclass(frozen=True)
class Spec:
    """A model and its data: latents of `channels` and a caption of tokens x width; frames: of a
    video, 0 for pictures; pooled: width of the pooled vector, 0 for none. masked: whether captions
    say which of their tokens count.
    """

    family: type
    model: type
    kind: ModelType
    config: dict = field(hash=False)
    channels: int = 4
    context: tuple[int, int] = (77, 2048)
    pooled: int = 0
    frames: int = 0
    masked: bool = False


SPECS = {
    "sdxl": Spec(configs.SDXL, kinds.SDXL, ModelType.EPS, FULL, pooled=1280),
    "small": Spec(configs.SDXL, kinds.SDXL, ModelType.EPS, SMALL, pooled=1280),
    "sd15": Spec(configs.SD15, kinds.BaseModel, ModelType.EPS, SD15, context=(77, 768)),
    "flux": Spec(configs.Flux, kinds.Flux, ModelType.FLUX, FLUX, 16, (256, 4096), 768),
    "small flux": Spec(configs.Flux, kinds.Flux, ModelType.FLUX, SHRUNK, 16, (256, 4096), 768),
    "qwen": Spec(configs.QwenImage, kinds.QwenImage, ModelType.FLUX, QWEN, 16, (64, 3584), 0, 1),
    "wan": Spec(configs.WAN21_T2V, kinds.WAN21, ModelType.FLOW, WAN, 16, (512, 4096), 0, 1),
    "chroma": Spec(configs.Chroma, kinds.Chroma, ModelType.FLUX, CHROMA, 16, (256, 4096)),
    "sd35": Spec(configs.SD3, kinds.SD3, ModelType.FLOW, SD35, 16, (154, 4096), 2048),
    "ltx": Spec(configs.LTXV, kinds.LTXV, ModelType.FLUX, LTX, 128, (128, 4096), 0, 1, masked=True),
    "lumina": Spec(configs.Lumina2, kinds.Lumina2, ModelType.FLOW, LUMINA, 16, (128, 2304)),
    "cosmos": Spec(
        configs.CosmosT2IPredict2,
        kinds.CosmosPredict2,
        ModelType.FLOW,
        COSMOS,
        16,
        (512, 1024),
        0,
        1,
    ),
    "hunyuan": Spec(
        configs.HunyuanVideo, kinds.HunyuanVideo, ModelType.FLOW, HUNYUAN, 16, (256, 4096), 768, 1
    ),
    "pixart": Spec(configs.PixArtSigma, kinds.PixArt, ModelType.EPS, PIXART, 4, (300, 4096)),
    "z-image": Spec(configs.ZImage, kinds.Lumina2, ModelType.FLOW, Z_IMAGE, 16, (128, 2560)),
}
DTYPES = {
    "fp32": (torch.float32, None),
    "fp16": (torch.float16, None),
    "bf16": (torch.bfloat16, None),
    "fp8": (torch.float8_e4m3fn, torch.bfloat16),  # stored so, cast at each use
}


def build(name: str, dtype: str) -> ModelPatcher:
    """Returns a MODEL whose weights lie in RAM, as the host's loaders leave it."""
    spec = SPECS[name]
    conf = spec.family(dict(spec.config))
    conf.unet_config.update(spec.config)
    conf.set_inference_dtype(*DTYPES[dtype])
    model = spec.model(conf, model_type=spec.kind)
    model.requires_grad_(False)
    card = comfy.model_management.get_torch_device()
    return ModelPatcher(model, load_device=card, offload_device=torch.device("cpu"))


def pictures(name: str, pixels: int, count: int = 1) -> tuple[list[dict], list[list]]:
    """Returns LATENTs of square pictures, and one caption for all."""
    spec, side = SPECS[name], pixels // (32 if SPECS[name].channels == 128 else 8)
    frames = (spec.frames,) if spec.frames else ()
    latents = torch.zeros(count, spec.channels, *frames, side, side)
    facts = {"pooled_output": torch.zeros(1, spec.pooled)} if spec.pooled else {}
    if spec.masked:
        facts["attention_mask"] = torch.ones(1, spec.context[0], dtype=torch.int64)
    return [{"samples": latents}], [[[torch.zeros(1, *spec.context), facts]]]
