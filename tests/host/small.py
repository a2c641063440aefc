"""What the loaders of a template would give: small random models of the host's own classes that fit
together.
"""

from __future__ import annotations

from unittest import mock

import comfy.ldm.wan.vae
import comfy.sd
import torch

from tests.models import encoders, shapes
from tests.models.build import build

# template -> class of the model, what differs in its shape, text encoder, kind of VAE
PARTS = {
    "LoRA2 Z-Image subject": ("ZImage", {"cap_feat_dim": 64}, "Z-Image", "kl 8"),
    "LoRA2 Flux 2 Klein subject": ("Flux2", {"context_in_dim": 192}, "Flux.2 Klein", "kl 16"),
    "LoRA2 Qwen-Image-Edit pairs": (
        "QwenImage", {"joint_attention_dim": 64}, "Qwen-Image", "wan"
    ),
    "LoRA2 Wan 2 high noise": ("WAN21_T2V", {"text_dim": 48}, "Wan", "wan"),
    "LoRA2 Krea 2 style": ("Krea2", {"txtlayers": 12}, "Krea 2", "wan"),
}  # fmt: skip
PARTS["LoRA2 Z-Image compress and train on"] = PARTS["LoRA2 Z-Image subject"]
PARTS["LoRA2 Krea 2 captions"] = PARTS["LoRA2 Krea 2 style"]


def drawn(module: torch.nn.Module) -> None:
    generator = torch.Generator().manual_seed(0)
    for parameter in module.parameters():
        scale = 0.3 * parameter[0].numel() ** -0.5 if parameter.ndim > 1 else 0.02
        noise = torch.randn(parameter.shape, generator=generator) * scale
        parameter.data.copy_(noise + (parameter.ndim == 1))


def vae(kind: str) -> comfy.sd.VAE:
    """The host's own VAE, of pictures (16 channels, an 8th of the side; 128, a 16th) or videos."""
    if kind == "wan":
        small = comfy.ldm.wan.vae.WanVAE(dim=32, z_dim=16, temperal_downsample=[False, True, True])
        drawn(small)
        return comfy.sd.VAE(sd=small.state_dict())
    ratio = int(kind.split()[1])
    multiples = [1, 1, 1, 1] if ratio == 8 else [1, 1, 1, 1, 1]
    conf = {
        "double_z": True, "z_channels": 16 if ratio == 8 else 128, "resolution": 64,
        "in_channels": 3, "out_ch": 3, "ch": 32, "ch_mult": multiples, "num_res_blocks": 1,
        "attn_resolutions": [], "dropout": 0.0,
    }  # fmt: skip
    made = comfy.sd.VAE(
        sd={}, config={"params": {"ddconfig": conf, "embed_dim": conf["z_channels"]}}
    )
    made.downscale_ratio = made.upscale_ratio = ratio
    drawn(made.first_stage_model)
    return made


def loaded(name: str) -> dict[str, object]:
    """Returns what the loaders of a template give, by their node types."""
    model, changes, encoder, kind = PARTS[name]
    with mock.patch.dict(shapes.SHAPES, {model: shapes.SHAPES.get(model, {}) | changes}):
        made = build(model)
    return {"UNETLoader": made, "CLIPLoader": encoders.build(encoder), "VAELoader": vae(kind)}
