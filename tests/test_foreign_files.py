"""Adapter files of other programs are read in every spelling, with their scale."""

from pathlib import Path

import pytest
import torch

import lora2_core as lora2
from tests.toys import foreign

SPELLINGS = [
    ("lora_unet_mid_attn.lora_up.weight", "lora_unet_mid_attn.lora_down.weight"),
    ("unet.mid.to_q_lora.up.weight", "unet.mid.to_q_lora.down.weight"),
    ("unet.mid.to_q.lora.up.weight", "unet.mid.to_q.lora.down.weight"),
    ("unet.mid.to_q.lora_B.weight", "unet.mid.to_q.lora_A.weight"),
    ("transformer.x.lora_B.default.weight", "transformer.x.lora_A.default.weight"),
    ("diffusion_model.x.lora_B", "diffusion_model.x.lora_A"),
    (
        "text_encoder.x.lora_linear_layer.up.weight",
        "text_encoder.x.lora_linear_layer.down.weight",
    ),
]


@pytest.mark.parametrize(("up_key", "down_key"), SPELLINGS)
@pytest.mark.parametrize("alpha", [None, 1.0, 4.0, 2.5, -4.0])
@pytest.mark.parametrize("conv", [False, True], ids=["linear", "conv"])
def test_every_spelling_is_read_with_its_scale(up_key, down_key, alpha, conv, tmp_path: Path):
    up, down = torch.randn(6, 4), torch.randn(4, 27 if conv else 10)
    tensors = {up_key: up, down_key: down}
    if conv:
        tensors = {up_key: up[:, :, None, None], down_key: down.view(4, 3, 3, 3)}
    base = min(lora2.load(foreign(tmp_path / "f.safetensors", tensors)).layers)
    assert up_key.startswith(base) and down_key.startswith(base)
    if alpha is not None:
        tensors[f"{base}.alpha"] = torch.tensor(alpha)
    loaded = lora2.load(foreign(tmp_path / "f.safetensors", tensors))
    (layer,) = loaded.layers.values()
    expected = (up @ down) * (1 if alpha is None else alpha / 4)
    torch.testing.assert_close(layer.delta().flatten(1), expected)
    assert layer.kernel == ((3, 3) if conv else None)
    assert loaded.info.get("basis") is None and "history" not in loaded.info


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64], ids=str)
def test_foreign_precision_is_read_as_fp32(dtype: torch.dtype, tmp_path: Path):
    keys = ("a.lora_up.weight", "a.lora_down.weight")
    pair = {key: torch.randn(4, 4).to(dtype) for key in keys}
    layer = lora2.load(foreign(tmp_path / "f.safetensors", pair)).layers["a"]
    assert layer.up.dtype == layer.down.dtype == torch.float32


def test_a_foreign_file_can_be_cut_and_saved_as_ours(tmp_path: Path):
    pair = {"a.lora_up.weight": torch.randn(8, 6), "a.lora_down.weight": torch.randn(6, 9)}
    lora = lora2.load(foreign(tmp_path / "f.safetensors", pair))
    saved = lora2.save(tmp_path / "a.safetensors", lora.rotated().truncated(0.5), dtype="fp32")
    assert saved.ranks == {"a": 3}
    u, s, vh = torch.linalg.svd(lora.layers["a"].delta())
    best = (u[:, :3] * s[:3]) @ vh[:3]
    found = lora2.load(tmp_path / "a.safetensors").layers["a"].delta()
    torch.testing.assert_close(found, best, rtol=1e-4, atol=1e-4)
