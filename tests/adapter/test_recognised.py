"""Which model a file is for, and which layers it names twice, by names and sizes alone."""

import pytest
import torch

from lora2_core import LoraLayer, RankedLora
from lora2_core.adapter.doubles import named_twice
from lora2_core.adapter.model_names import ModelNames, Target
from lora2_core.adapter.origin import BaseModel, Origin
from lora2_core.adapter.recognised import recognised


def lora(*names: str, out: int = 8, columns: int = 8, names_of: ModelNames | None = None):
    layers = {n: LoraLayer(torch.ones(out, 1), torch.ones(1, columns)) for n in names}
    return RankedLora(layers, Origin(base=BaseModel(names=names_of)))


UNET = "down_blocks_1_attentions_0_transformer_blocks_0_attn2_to_k"
TEXT = "text_model_encoder_layers_0_self_attn_q_proj"


@pytest.mark.parametrize(
    ("names", "out", "columns", "model"),
    [
        ([f"lora_unet_{UNET}"], 320, 768, "Stable Diffusion 1.x"),
        ([f"lora_unet_{UNET}"], 640, 2048, "Stable Diffusion XL"),
        (["unet.down_blocks.1.attentions.0.transformer_blocks.0.attn2.processor.to_v"], 640, 1024,
         "Stable Diffusion 2.x"),
        (["diffusion_model.input_blocks.4.1.transformer_blocks.0.attn2.to_k"], 640, 2048,
         "Stable Diffusion XL"),
        ([f"lora_unet_{UNET}"], 640, 555, "a Stable Diffusion UNet"),
        (["lora_unet_down_blocks_0_attentions_0_proj_in"], 320, 320, "a Stable Diffusion UNet"),
        ([f"lora_te1_{TEXT}"], 768, 768, ""),
        (["lora_unet_double_blocks_0_img_attn_proj"], 3072, 3072, "Flux"),
        (["diffusion_model.single_blocks.3.linear2"], 6144, 9, "Flux 2"),
        (["transformer.single_transformer_blocks.3.attn.to_q"], 3072, 3072, "Flux"),
        (["transformer.single_transformer_blocks.3.attn.to_qkv_mlp_proj"], 99, 9, "Flux 2"),
        (["diffusion_model.double_blocks.0.img_mlp.fc1"], 9, 9, "HunyuanVideo"),
        (["diffusion_model.joint_blocks.0.x_block.attn.qkv"], 9, 9, "Stable Diffusion 3"),
        (["transformer.transformer_blocks.0.attn.add_q_proj"], 9, 9, "Stable Diffusion 3"),
        (["transformer_blocks.0.img_mlp.net.2", "transformer_blocks.0.attn.add_q_proj"], 9, 9,
         "Qwen-Image"),
        (["diffusion_model.layers.0.attention.to_q"], 3840, 3840, "Z-Image"),
        (["lora_unet_layers_0_attention_to_q"], 3840, 3840, "Z-Image"),
        (["diffusion_model.layers.0.attention.out"], 2304, 2304, "Lumina 2"),
        (["diffusion_model.blocks.0.self_attn.q"], 5120, 5120, "Wan 14B"),
        (["lora_unet_blocks_0_cross_attn_k_img"], 1536, 9, "Wan"),
        (["diffusion_model.blocks.0.self_attn.q_proj"], 9, 9, "Cosmos or Anima"),
        (["diffusion_model.transformer_blocks.0.attn1.to_q"], 9, 9, "LTX"),
        (["something.else"], 9, 9, ""),
    ],
)  # fmt: skip
def test_the_model_of_a_file(names, out, columns, model):
    assert recognised(lora(*names, out=out, columns=columns)) == model


@pytest.mark.parametrize(
    ("names", "twice"),
    [
        ([f"lora_unet_{UNET}", f"unet.{UNET}"], 1),
        (["unet.a.processor.to_q", "lora_unet_a_to_q", "diffusion_model.a.to_q"], 2),
        (["unet.a.to_out.0", "unet.a.processor.to_out"], 1),
        ([f"lora_te1_{TEXT}", f"lora_te2_{TEXT}"], 0),
        ([f"lora_te1_{TEXT}", f"text_encoder.{TEXT}"], 1),
        ([f"lora_te2_{TEXT}", f"text_encoder_2.{TEXT}"], 1),
        (["lora_unet_a_b", "lora_unet_a_c"], 0), (["unet.a", "lora_te_a"], 0),
    ],
)  # fmt: skip
def test_layers_that_are_named_twice(names, twice):
    assert len(named_twice(lora(*names))) == twice


def test_rows_of_a_weight_that_two_names_mean():
    targets = {
        "qkv": Target("a"), "q": Target("a", 0, 4), "k": Target("a", 4, 4), "b": Target("b"),
        "all": Target("a", 0, 8),
    }  # fmt: skip
    known = ModelNames(targets, 5, {"a": 8, "b": 8})
    assert named_twice(lora("q", "k", "b", names_of=known)) == []
    assert named_twice(lora("q", "k", "qkv", names_of=known)) == [("q", "qkv"), ("k", "qkv")]
    assert named_twice(lora("k", "all", "b", names_of=known)) == [("k", "all")]
