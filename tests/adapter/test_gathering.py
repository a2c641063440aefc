"""Layers that come one by one give what they give together, with little kept meanwhile."""

import pytest
import torch

from lora2_core import LoraLayer, RankedLora
from lora2_core.adapter.block_weights import read_block_weights
from lora2_core.adapter.compress import compress
from lora2_core.adapter.gathering import CROWDED, Gathering


def layers(count: int = 12) -> dict[str, LoraLayer]:
    g = torch.Generator().manual_seed(0)
    found = {}
    for number in range(count):
        size = 10.0 ** torch.randint(-2, 2, (1,), generator=g)
        up = torch.randn(20 + number, 8, generator=g) * size
        found[f"a.{number}"] = LoraLayer(up, torch.randn(8, 30, generator=g)).rotated()
    return found


@pytest.mark.parametrize(("budget_mb", "tolerance"), [(0.002, 0.0), (0.004, 0.3), (0.0, 0.2)])
def test_they_are_cut_as_all_together_are(budget_mb: float, tolerance: float):
    whole = RankedLora(layers())
    wanted = compress(whole, budget_mb=budget_mb, tolerance=tolerance)
    gathered, most = Gathering(budget_mb), 0
    for name, layer in layers().items():
        gathered.add(name, layer)
        most = max(most, sum(y.rank * y.cost for y in gathered.layers.values()))
    lora, error = gathered.result(tolerance)
    assert lora.ranks == wanted.ranks
    assert error == pytest.approx(wanted.origin.run.settings["compressed"]["error"], rel=1e-6)
    if budget_mb:
        assert most <= CROWDED * budget_mb * 1e6 / 2
    sizes, errors = gathered.curve()
    assert sizes[0] == 0 and errors[0] == pytest.approx(1)
    assert errors == sorted(errors, reverse=True)


def test_what_a_layer_lacks_counts():
    gathered = Gathering()
    gathered.add("a", LoraLayer(torch.eye(2), torch.eye(2)), lost=2.0)
    assert gathered.result()[1] == pytest.approx(0.5**0.5)


@pytest.mark.parametrize(
    ("text", "name", "factor"),
    [
        ("down=0.5", "lora_unet_down_blocks_1_attentions_0_transformer_blocks_0_attn1_to_q", 0.5),
        ("down.4=2", "diffusion_model.input_blocks.4.1.transformer_blocks.1.attn1.to_q", 2),
        ("down 4, block 1", "", None),
        ("down.4.block.1=3", "diffusion_model.input_blocks.4.1.transformer_blocks.1.attn1.to_q", 3),
        ("up=0", "lora_unet_mid_block_attentions_0_transformer_blocks_0_attn1_to_q", 1),
        ("double_blocks.0-3=0", "lora_unet_double_blocks_2_img_attn_qkv", 0),
        ("attn2=0; attn2.to_k=1.5", "unet.x.attn2.to_k", 1.5),
        ("text=-1", "lora_te2_text_model_encoder_layers_3_mlp_fc1", -1),
        ("up=0", "lora_te2_text_model_encoder_layers_3_mlp_fc1", 1),
        ("a=x", "", None),
        ("a=1000", "", None),
    ],
)
def test_blocks_are_found_by_the_names_that_are_shown(text: str, name: str, factor: float | None):
    if factor is None:
        with pytest.raises(ValueError, match="^blocks has '"):
            read_block_weights(text)
    else:
        assert read_block_weights(text).factor(name) == factor
