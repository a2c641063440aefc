"""Where a layer stands in its model is read from its name, whatever model it is."""

import pytest
import torch

from lora2_core import LoraLayer, RankedLora
from lora2_core.adapter.layout import Block, Module, arrange, block_of, module_of, position
from lora2_core.adapter.rank_map import rank_map
from tests.toys import random_lora

POSITIONS = {
    # SDXL as the host names it
    "diffusion_model.input_blocks.4.1.transformer_blocks.3.attn2.to_out.0": (
        "down 4, block 3",
        "cross out",
    ),
    "diffusion_model.input_blocks.8.1.transformer_blocks.0.attn1.to_q": (
        "down 8, block 0",
        "self q",
    ),
    "diffusion_model.middle_block.1.transformer_blocks.9.attn1.to_v": ("mid, block 9", "self v"),
    "diffusion_model.output_blocks.0.1.transformer_blocks.2.attn2.to_k": (
        "up 0, block 2",
        "cross k",
    ),
    # and as diffusers does
    "down_blocks.1.attentions.0.transformer_blocks.1.attn1.to_k": (
        "down 1.0, block 1",
        "self k",
    ),
    "mid_block.attentions.0.transformer_blocks.3.attn2.to_out.0": ("mid, block 3", "cross out"),
    "unet.up_blocks.0.attentions.2.transformer_blocks.9.attn2.to_v": (
        "up 0.2, block 9",
        "cross v",
    ),
    "input_blocks.4.1.transformer_blocks.3.ff.net.0.proj": ("down 4, block 3", "ff net.0.proj"),
    # Flux, SD3 and other transformers: the path to the last number
    "diffusion_model.double_blocks.7.img_attn.qkv": ("double_blocks.7", "img_attn.qkv"),
    "diffusion_model.single_blocks.37.linear1": ("single_blocks.37", "linear1"),
    "transformer_blocks.0.attn.to_q": ("transformer_blocks.0", "attn.to_q"),
    "joint_blocks.3.x_block.attn.to_out.0": ("joint_blocks.3", "x_block.attn.to_out"),
    # names of kohya files, as an adapter has them that was not loaded onto a model
    "lora_unet_down_blocks_1_attentions_0_transformer_blocks_1_attn2_to_out_0": (
        "down 1.0, block 1",
        "cross out",
    ),
    "lora_unet_output_blocks_0_1_transformer_blocks_2_ff_net_0_proj": (
        "up 0, block 2",
        "ff net.0.proj",
    ),
    "lora_unet_mid_block_attentions_0_transformer_blocks_3_attn1_to_q": ("mid, block 3", "self q"),
    "lora_te1_text_model_encoder_layers_11_self_attn_q_proj": (
        "lora_te1.text_model_encoder_layers.11",
        "self_attn_q_proj",
    ),
    "lora_unet_double_blocks_7_img_attn_qkv": ("double_blocks.7", "img_attn_qkv"),
    # no numbers at all
    "proj": ("", "proj"),
    "diffusion_model.final_layer.linear": ("", "final_layer.linear"),
    "": ("", ""),
}


@pytest.mark.parametrize("name", POSITIONS)
def test_position(name: str):
    assert position(name) == POSITIONS[name]


SDXL = [
    f"diffusion_model.{block}.transformer_blocks.{i}.{attention}.{leaf}"
    for block, depth in [
        ("input_blocks.4.1", 2),
        ("input_blocks.5.1", 2),
        ("input_blocks.7.1", 10),
        ("input_blocks.8.1", 10),
        ("middle_block.1", 10),
        ("output_blocks.0.1", 10),
        ("output_blocks.1.1", 10),
        ("output_blocks.2.1", 10),
        ("output_blocks.3.1", 2),
        ("output_blocks.4.1", 2),
        ("output_blocks.5.1", 2),
    ]
    for i in range(depth)
    for attention in ("attn1", "attn2")
    for leaf in ("to_q", "to_k", "to_v", "to_out.0")
]


def test_all_560_layers_of_sdxl_have_a_place_of_their_own():
    assert len(SDXL) == 560
    assert len(set(map(position, SDXL))) == 560


def test_diffusers_names_do_not_share_places_either():
    names = [
        f"down_blocks.{b}.attentions.{a}.transformer_blocks.{i}.attn{n}.to_q"
        for b in (1, 2) for a in (0, 1) for i in (0, 1) for n in (1, 2)
    ]  # fmt: skip
    assert len(set(map(position, names))) == len(names)


def test_rows_follow_the_model_and_columns_are_self_cross_others():
    names = [
        "output_blocks.3.1.transformer_blocks.0.ff.net.2",
        *(n for n in reversed(SDXL) if "blocks.3.1.transformer_blocks.0" in n),
        *(n for n in SDXL if "blocks.4.1.transformer_blocks.1" in n),
    ]
    layer = LoraLayer(torch.ones(4, 1), torch.ones(1, 4))
    table = rank_map(RankedLora(dict.fromkeys(names, layer)))
    assert table.rows == ["down 4, block 1", "up 3, block 0", "up 4, block 1"]
    attention = [f"{a} {leaf}" for a in ("self", "cross") for leaf in ("q", "k", "v", "out")]
    assert table.columns == [*attention, "ff net.2"]


def test_cells_say_rank_limit_norm_and_size():
    lora = random_lora().rotated().truncated(0.5)
    table = rank_map(lora)
    assert [cell.name for cell in table.cells] == list(lora.layers)
    for cell in table.cells:
        layer = lora.layers[cell.name]
        assert (cell.row, cell.column) == position(cell.name)
        assert cell.rank == layer.rank
        assert cell.max_rank == min(layer.delta().flatten(1).shape)
        assert cell.norm == pytest.approx(float(layer.delta().norm()), rel=1e-4, abs=1e-6)
        assert cell.bytes == 2 * (layer.up.numel() + layer.down.numel())
    assert sum(cell.bytes for cell in table.cells) == pytest.approx(lora.megabytes() * 1e6)


def test_the_json_is_plain_values():
    json = rank_map(random_lora()).as_json()
    assert set(json) == {"rows", "columns", "cells", "blocks", "modules", "mean_rank"}
    for key in ("cells", "blocks", "modules"):
        assert all(isinstance(v, (str, int, float)) for entry in json[key] for v in entry.values())
    assert len(json["blocks"]) == len(json["rows"])
    assert len(json["modules"]) == len(json["columns"])


@pytest.mark.parametrize(
    "row, block",
    {
        "down 4, block 3": Block("down", "4", "3", unet=True),
        "up 0.2": Block("up", "0.2", "", unet=True),
        "mid": Block("mid", "", "", unet=True),
        "double_blocks.7": Block("double blocks", "", "7", unet=False),
        "lora_te1.text_model_encoder_layers.11": Block(
            "lora te1 text model encoder layers", "", "11", unet=False
        ),
        "proj": Block("proj", "", "", unet=False),
        "": Block("other layers", "", "", unet=False),
    }.items(),
)
def test_a_row_says_which_block_it_is(row: str, block: Block):
    assert block_of(row) == block


def test_a_column_says_which_module_it_is():
    assert module_of("self q") == Module("self", "self q")
    assert module_of("img_attn.to.qkv") == Module("img_attn", "img_attn to.qkv")
    assert module_of("linear1") == Module("", "linear1")


def test_single_blocks_need_no_number_beside_a_text_encoder_either():
    block = "diffusion_model.input_blocks.4.1.transformer_blocks.0.attn1.to_q"
    text = "lora_te_text_model_encoder_layers_0_self_attn_q_proj"
    alone, both = arrange([block]), arrange([block, text])
    leaves = [f"self_attn_{leaf}_proj" for leaf in ("q", "k", "v", "out")]
    names = [text.replace("self_attn_q_proj", leaf) for leaf in ("mlp_fc1", *reversed(leaves))]
    assert arrange(names).columns == ["mlp_fc1", *leaves], "as in the model"
    assert alone.rows == ["down 4"] and both.rows[0] == "down 4" and len(both.rows) == 2
