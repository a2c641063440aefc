"""Small random models with the structure of SD1.5, SDXL, Flux and Wan, in ComfyUI and in diffusers,
and adapters of every layer of them with ranks that differ.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from random import Random

import torch
from torch import nn

from lora2_core import LoraLayer, RankedLora
from lora2_core.adapter.origin import BaseModel, Origin
from lora2_core.host.naming import diffusers_paths, model_names
from lora2_core.layers.layer import is_adaptable
from tests.host import flow_models, test_real_shapes

FLUX = replace(flow_models.FAMILIES["Flux"], shape=flow_models.FLUX | {"mlp_ratio": 4.0})
# diffusers' converter of kohya files has the width of the real Flux built in
REAL_FLUX = replace(
    FLUX,
    shape=FLUX.shape
    | {"hidden_size": 3072, "num_heads": 24, "depth": 1, "depth_single_blocks": 1,
       "axes_dim": [16, 56, 56]},
)  # fmt: skip
HOSTS: dict[str, Callable] = {
    "SD1.5": lambda: test_real_shapes.built("SD1.5"),
    "SDXL": lambda: test_real_shapes.built("SDXL"),
    "Flux": lambda: flow_models.build(FLUX),
    "Flux 3072": lambda: flow_models.build(REAL_FLUX, torch.bfloat16),
    "Wan": lambda: flow_models.build("Wan 2.1"),
}
# layers that diffusers' own class has under no name, or that no trainer of it adapts
LEFT_OUT = {
    "SD1.5": (), "SDXL": (),
    **dict.fromkeys(
        ("Flux", "Flux 3072"),
        ("img_in", "txt_in", "time_in", "vector_in", "guidance_in", "final_layer"),
    ),
    "Wan": ("patch_embedding", "text_embedding", "time_embedding", "time_projection", "head"),
}  # fmt: skip


def in_diffusers(name: str) -> nn.Module:
    """The same model in diffusers, with weights of its own."""
    import diffusers

    unet = {
        "block_out_channels": (32, 64, 128), "layers_per_block": 1, "cross_attention_dim": 64,
        "norm_num_groups": 32, "sample_size": 32,
    }  # fmt: skip
    down, cross = "DownBlock2D", "CrossAttnDownBlock2D"
    up, cross_up = "UpBlock2D", "CrossAttnUpBlock2D"
    if name == "SD1.5":
        return diffusers.UNet2DConditionModel(
            down_block_types=(cross, cross, down), up_block_types=(up, cross_up, cross_up),
            attention_head_dim=2, **unet,
        )  # fmt: skip
    if name == "SDXL":
        return diffusers.UNet2DConditionModel(
            down_block_types=(down, cross, cross), up_block_types=(cross_up, cross_up, up),
            attention_head_dim=(2, 4, 8), transformer_layers_per_block=(1, 1, 2),
            use_linear_projection=True, addition_embed_type="text_time",
            addition_time_embed_dim=256, projection_class_embeddings_input_dim=32 + 6 * 256, **unet,
        )  # fmt: skip
    if name.startswith("Flux"):
        blocks, heads, width = (1, 24, 128) if name == "Flux 3072" else (2, 2, 24)
        with torch.device("meta"):
            inner = diffusers.FluxTransformer2DModel(
                patch_size=1, in_channels=64, num_layers=blocks, num_single_layers=blocks,
                attention_head_dim=width, num_attention_heads=heads, joint_attention_dim=24,
                pooled_projection_dim=20, guidance_embeds=True, axes_dims_rope=(8, 8, 8),
            )  # fmt: skip
        return inner.to_empty(device="cpu")  # whatever its weights are: the updates alone count
    return diffusers.WanTransformer3DModel(
        patch_size=(1, 2, 2), num_attention_heads=2, attention_head_dim=24, in_channels=16,
        out_channels=16, text_dim=24, freq_dim=64, ffn_dim=64, num_layers=2, cross_attn_norm=True,
        rope_max_seq_len=32,
    )  # fmt: skip


def adapter(name: str, model, seed: int = 0) -> RankedLora:
    """An update of every layer, with ranks from 1 to 12."""
    random, generator = Random(seed), torch.Generator().manual_seed(seed)
    layers = {}
    for path, module in model.model.named_modules():
        if not is_adaptable(module) or path.removeprefix("diffusion_model.").startswith(
            LEFT_OUT[name] or ("\0",)
        ):
            continue
        shape = module.weight.shape
        rank = random.randint(1, min(12, shape[0], shape[1:].numel()))
        up = torch.randn(shape[0], rank, generator=generator)
        down = torch.randn(rank, shape[1:].numel(), generator=generator)
        layers[path] = LoraLayer(up, down, tuple(shape[2:]) or None)
    base = BaseModel(diffusers=diffusers_paths(model), names=model_names(model))
    return RankedLora(layers, Origin(base=base)).rotated()
