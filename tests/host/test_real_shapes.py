"""Models of the real classes, shrunk and randomly initialised, in the dtypes they are loaded in."""

import re

import comfy.model_base
import comfy.model_management
import comfy.sd
import comfy.supported_models
import comfy.utils
import pytest
import torch
from comfy.model_patcher import ModelPatcher

from lora2_core import RankSettings, TrainSettings, save
from lora2_core.host.training.choices import Choices
from lora2_core.host.training.run import train_on
from tests.tiers import each_once

from .untrained import untrained

UNET_ATTENTION = r"attn[12]\.to_(q|k|v|out\.0)$"
UNET = {
    "image_size": 32, "in_channels": 4, "out_channels": 4, "model_channels": 32,
    "num_res_blocks": [1, 1, 1], "channel_mult": [1, 2, 4], "use_spatial_transformer": True,
    "use_checkpoint": False, "legacy": False, "use_temporal_attention": False,
}  # fmt: skip
SDXL = UNET | {
    "transformer_depth": [0, 1, 2], "transformer_depth_output": [0, 0, 1, 1, 2, 2],
    "transformer_depth_middle": 2, "context_dim": 64, "adm_in_channels": 32 + 6 * 256,
    "num_classes": "sequential", "use_linear_in_transformer": True,
}  # fmt: skip
SD15 = UNET | {
    "transformer_depth": [1, 1, 0], "transformer_depth_output": [1, 1, 1, 1, 0, 0],
    "transformer_depth_middle": 1, "context_dim": 64, "use_linear_in_transformer": False,
}  # fmt: skip
KOALA = SDXL | {
    "transformer_depth": [0, 2, 5], "transformer_depth_output": [0, 0, 2, 2, 5, 5],
    "transformer_depth_middle": -2,
}  # fmt: skip
SSD_1B = SDXL | {
    "num_res_blocks": [2, 2, 2], "transformer_depth": [0, 0, 2, 2, 4, 4],
    "transformer_depth_output": [0, 0, 0, 1, 1, 2, 10, 4, 4], "transformer_depth_middle": -1,
}  # fmt: skip
SD2 = SD15 | {"adm_in_channels": None, "use_linear_in_transformer": True}
UNETS = {
    "SDXL": (comfy.supported_models.SDXL, SDXL),
    "SDXL v": (comfy.supported_models.SDXL, SDXL),
    "SD1.5": (comfy.supported_models.SD15, SD15),
    "SD2": (comfy.supported_models.SD20, SD2),
    "SD2 v": (comfy.supported_models.SD20, SD2),
    "KOALA": (comfy.supported_models.KOALA_700M, KOALA),
    "SSD-1B": (comfy.supported_models.SSD1B, SSD_1B),
}
CASES = each_once(list(UNETS)[:3], (torch.float32, torch.bfloat16, torch.float16))
CASES += [pytest.param(name, torch.float32, marks=pytest.mark.slow) for name in list(UNETS)[3:]]


def patcher(family, config: dict, dtype: torch.dtype, kind) -> ModelPatcher:
    """The host's own model class, weights drawn small."""
    conf = family(dict(config))
    conf.unet_config["num_heads"], conf.unet_config["num_head_channels"] = -1, 16
    conf.set_inference_dtype(dtype, None)
    sdxl = issubclass(family, comfy.supported_models.SDXL)
    kinds = comfy.model_base.BaseModel, comfy.model_base.SDXL
    model = kinds[sdxl](conf, model_type=kind)
    generator = torch.Generator().manual_seed(0)
    for parameter in model.diffusion_model.parameters():
        scale = 0.05 if parameter.ndim > 1 else 0.02
        noise = torch.randn(parameter.shape, generator=generator) * scale
        parameter.copy_(noise + (parameter.ndim == 1))
    device = comfy.model_management.get_torch_device()
    return ModelPatcher(model, load_device=device, offload_device=device)


@pytest.mark.parametrize(("name", "dtype"), CASES)
def test_trains_and_every_key_loads_in_the_stock_loader(name, dtype, tmp_path):
    sdxl, model = is_sdxl(name), built(name, dtype)
    before = {k: v.clone() for k, v in model.model.state_dict().items()}
    generator = torch.Generator().manual_seed(1)
    latents = [{"samples": torch.randn(2, 4, 16, 16, generator=generator)}]
    facts = {"pooled_output": torch.randn(1, 32, generator=generator)} if sdxl else {}
    positive = [[[torch.randn(1, 77, 64, generator=generator), facts]]]
    run = Choices(RankSettings(target_rank=4, max_rank=8), TrainSettings(8, 1e-2), batch_size=2)
    out = train_on(model, latents, positive, run, lambda step: None)
    assert all(map(torch.isfinite, map(torch.tensor, out.losses)))
    layers = [n for n, _ in model.model.named_modules() if re.search(UNET_ATTENTION, n)]
    assert list(out.lora.layers) == layers
    assert all(torch.equal(v, before[k]) for k, v in model.model.state_dict().items())
    assert all(bool(layer.up.abs().sum() > 0) for layer in out.lora.layers.values() if layer.rank)
    check_stock_loader(model, out.lora, tmp_path, sdxl)


@pytest.mark.parametrize("name", UNETS)
def test_every_key_loads_in_the_stock_loader(name, tmp_path):
    model = built(name)
    check_stock_loader(model, untrained(model), tmp_path, is_sdxl(name))


def is_sdxl(name: str) -> bool:
    return issubclass(UNETS[name][0], comfy.supported_models.SDXL)


def built(name: str, dtype: torch.dtype = torch.float32) -> ModelPatcher:
    """Returns a model of UNETS."""
    kinds = comfy.model_base.ModelType
    return patcher(*UNETS[name], dtype, kinds.V_PREDICTION if name.endswith(" v") else kinds.EPS)


def check_stock_loader(model, lora, folder, sdxl: bool) -> None:
    """Saves an adapter; the host's loader must take every layer of it, under names of diffusers."""
    path = folder / "a.safetensors"
    save(path, lora, diffusers=lora.origin.base.diffusers)
    tensors, facts = comfy.utils.load_torch_file(str(path), safe_load=True, return_metadata=True)
    assert all(
        key.startswith(("lora_unet_down", "lora_unet_mid", "lora_unet_up")) for key in tensors
    )
    stock, _ = comfy.sd.load_lora_for_models(model, None, tensors, 1.0, 0.0)
    assert len(stock.patches) == sum(rank > 0 for rank in lora.ranks.values()) > 0
    if sdxl:
        assert facts["ss_base_model_version"] == "sdxl_base_v1-0"
