"""Models at the shape of real ones, in the host's own classes, with random weights."""

from __future__ import annotations

import copy
import re
from dataclasses import dataclass, field
from itertools import chain

import comfy.model_base
import comfy.model_management
import comfy.supported_models
import torch
from comfy.model_patcher import ModelPatcher

from lora2_core.host.playground import load_playground
from lora2_core.layers.layer import is_adaptable
from lora2_core.layers.targets import ATTENTION
from lora2_core.playground import asset

UNET = {
    "use_checkpoint": False, "image_size": 32, "in_channels": 4, "out_channels": 4, "legacy": False,
    "use_spatial_transformer": True, "use_temporal_attention": False, "model_channels": 320,
}  # fmt: skip
SDXL = UNET | {
    "num_classes": "sequential", "adm_in_channels": 2816, "use_linear_in_transformer": True,
    "context_dim": 2048, "num_heads": -1, "num_head_channels": 64, "channel_mult": [1, 2, 4],
}  # fmt: skip
FULL = SDXL | {
    "num_res_blocks": [2, 2, 2], "transformer_depth": [0, 0, 2, 2, 10, 10],
    "transformer_depth_output": [0, 0, 0, 2, 2, 2, 10, 10, 10], "transformer_depth_middle": 10,
}  # fmt: skip
KOALA = SDXL | {
    "num_res_blocks": [1, 1, 1], "transformer_depth": [0, 2, 5],
    "transformer_depth_output": [0, 0, 2, 2, 5, 5], "transformer_depth_middle": -2,
}  # fmt: skip
SMALL = SDXL | {
    "model_channels": 128, "num_res_blocks": [1, 1, 1], "transformer_depth": [0, 1, 2],
    "transformer_depth_output": [0, 0, 1, 1, 2, 2], "transformer_depth_middle": 3,
}  # fmt: skip
SD15 = UNET | {
    "adm_in_channels": None, "use_linear_in_transformer": False, "context_dim": 768,
    "num_heads": 8, "num_res_blocks": [2, 2, 2, 2], "channel_mult": [1, 2, 4, 4],
    "transformer_depth": [1, 1, 1, 1, 1, 1, 0, 0], "transformer_depth_middle": 1,
    "transformer_depth_output": [1, 1, 1, 1, 1, 1, 1, 1, 1, 0, 0, 0],
}  # fmt: skip
FLUX = {
    "image_model": "flux", "in_channels": 16, "out_channels": 16, "patch_size": 2,
    "hidden_size": 768, "num_heads": 6, "depth": 2, "depth_single_blocks": 4, "mlp_ratio": 4.0,
    "context_in_dim": 1024, "vec_in_dim": 768, "axes_dim": [16, 56, 56], "theta": 10000,
    "qkv_bias": True, "txt_ids_dims": [], "guidance_embed": False,
}  # fmt: skip
FLUX_ATTENTION = r"_attn\.(qkv|proj)$|single_blocks\.\d+\.linear[12]$"


@dataclass(frozen=True)
class Spec:
    """A model and what it is trained on: latents [1, channels, size, size], a caption of
    tokens x width and a pooled vector (0: none).

    `gigabytes` is the free memory that its measurements need; `large`: one variant at a time beside
    the limit.
    """

    title: str
    family: type | None
    kind: type = comfy.model_base.SDXL
    config: dict = field(default_factory=dict)
    dtype: torch.dtype = torch.float32
    channels: int = 4
    size: int = 32
    context: tuple[int, int] = (77, 2048)
    pooled: int = 1280
    targets: str = ATTENTION
    gigabytes: float = 3.0
    large: bool = False


SPECS = {
    "playground": Spec("playground", None, channels=8, size=8, context=(16, 128), pooled=128),
    "small": Spec("SDXL shape, 111 M", comfy.supported_models.SDXL, config=SMALL),
    "flux": Spec(
        "Flux shape, small", comfy.supported_models.Flux, comfy.model_base.Flux, FLUX, channels=16,
        context=(256, 1024), pooled=768, targets=FLUX_ATTENTION,
    ),
    "sd15": Spec(
        "SD1.5, 860 M", comfy.supported_models.SD15, comfy.model_base.BaseModel, SD15,
        size=64, context=(77, 768), pooled=0, gigabytes=16, large=True,
    ),
    "koala": Spec(
        "KOALA-700m shape", comfy.supported_models.KOALA_700M, config=KOALA, gigabytes=16,
        large=True,
    ),
    "sdxl": Spec(
        "SDXL, 2.6 G, bf16", comfy.supported_models.SDXL, config=FULL, dtype=torch.bfloat16,
        size=64, gigabytes=14, large=True,
    ),
}  # fmt: skip


@torch.no_grad()
def fill(module: torch.nn.Module) -> None:
    """Weights that keep the size of activations: the host's layers are uninitialised."""
    generator = torch.Generator(next(module.parameters()).device).manual_seed(0)
    for name, parameter in module.named_parameters():
        parameter.requires_grad_(False)
        if parameter.ndim > 1:
            parameter.normal_(0, parameter[0].numel() ** -0.5, generator=generator)
        else:
            parameter.fill_(0.0 if name.endswith("bias") else 1.0)


def build(name: str, device: torch.device | str | None = None) -> ModelPatcher:
    """A loaded MODEL with all that the built-in trainer asks for; `device` "meta": shapes only."""
    spec = SPECS[name]
    if spec.family is None:
        patcher = load_playground(asset.load())[0]
        patcher.model.requires_grad_(False)
    else:
        conf = spec.family(dict(spec.config))
        conf.unet_config.update(spec.config)
        conf.set_inference_dtype(spec.dtype, None)
        kinds = {comfy.model_base.Flux: comfy.model_base.ModelType.FLUX}
        model_type = kinds.get(spec.kind, comfy.model_base.ModelType.EPS)
        model = spec.kind(conf, model_type=model_type, device=device)
        if device is None:
            fill(model.diffusion_model)
        patcher = patcher_of(model)
    patcher.cached_patcher_init = (second_copy, (patcher.model, False))
    return patcher


def patcher_of(model: comfy.model_base.BaseModel) -> ModelPatcher:
    device = comfy.model_management.get_torch_device()
    return ModelPatcher(model, load_device=device, offload_device=device)


def second_copy(
    model: comfy.model_base.BaseModel, shared: bool, disable_dynamic: bool = True
) -> ModelPatcher:
    """Another MODEL with modules of its own; `shared`: on the very same weights."""
    kept = [model.model_config, *(chain(model.parameters(), model.buffers()) if shared else ())]
    return patcher_of(copy.deepcopy(model, {id(part): part for part in kept}))


def twin(patcher: ModelPatcher) -> ModelPatcher:
    """A MODEL on the same weights, which hooks and wrappers of other twins do not touch."""
    copied = second_copy(patcher.model, True)
    copied.cached_patcher_init = (second_copy, (patcher.model, True))
    return copied


def layers_of(patcher: ModelPatcher, targets: str) -> list[str]:
    """Module paths that a regex adapts, in the model's order."""
    found = re.compile(targets)
    modules = patcher.model.named_modules()
    return [name for name, module in modules if found.search(name) and is_adaptable(module)]


def frozen_bytes(patcher: ModelPatcher) -> int:
    return sum(p.numel() * p.element_size() for p in patcher.model.parameters())


def pictures(name: str, count: int = 2, size: int | None = None) -> tuple[list[dict], list[list]]:
    """Random LATENTs and one caption, as a graph hands them to a trainer."""
    spec = SPECS[name]
    generator = torch.Generator().manual_seed(1)
    shape = (count, spec.channels, size or spec.size, size or spec.size)
    facts = {}
    if spec.pooled:
        facts["pooled_output"] = torch.randn(1, spec.pooled, generator=generator)
    caption = torch.randn(1, *spec.context, generator=generator)
    return [{"samples": torch.randn(shape, generator=generator)}], [[[caption, facts]]]


def free_gigabytes() -> float:
    """Free memory of the device that models are put on."""
    return comfy.model_management.get_free_memory(comfy.model_management.get_torch_device()) / 1e9
