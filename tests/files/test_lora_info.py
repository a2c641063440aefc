"""Any LoRA, described: in the model's order whatever the file's is, with alpha, as a picture."""

import json
import random
import re

import numpy as np
import pytest
import torch

from lora2_core import LoraLayer, RankedLora, load
from lora2_core.adapter.model_order import in_model_order, order_key
from lora2_core.adapter.origin import Learned, Origin, SourceFile
from lora2_core.adapter.rank_map import rank_map
from lora2_core.adapter.sections import sections
from lora2_core.charts.info import (
    LONGEST,
    as_saved,
    file_scales,
    layer_table,
    metadata_text,
    readable,
    summary,
)
from lora2_core.charts.info_picture import number, picture
from tests.toys import foreign, random_lora, trained

ORDERED = [
    "lora_unet_input_blocks_4_1_transformer_blocks_0_attn1_to_q",
    "lora_unet_input_blocks_4_1_transformer_blocks_0_attn1_to_k",
    "lora_unet_input_blocks_4_1_transformer_blocks_0_attn1_to_v",
    "lora_unet_input_blocks_4_1_transformer_blocks_0_attn1_to_out_0",
    "lora_unet_input_blocks_4_1_transformer_blocks_0_attn2_to_q",
    "lora_unet_input_blocks_4_1_transformer_blocks_0_ff_net_2",
    "lora_unet_input_blocks_4_1_transformer_blocks_2_attn1_to_q",
    "lora_unet_input_blocks_4_1_transformer_blocks_10_attn1_to_q",
    "lora_unet_middle_block_1_transformer_blocks_0_attn1_to_q",
    "lora_unet_output_blocks_3_1_transformer_blocks_0_attn1_to_q",
    "lora_unet_output_blocks_11_1_transformer_blocks_0_attn1_to_q",
    "lora_te1_text_model_encoder_layers_2_self_attn_q_proj",
    "lora_te1_text_model_encoder_layers_11_self_attn_q_proj",
    "lora_te2_text_model_encoder_layers_0_self_attn_q_proj",
]
DIFFUSERS = [
    "unet.down_blocks.1.attentions.0.proj_in", "unet.down_blocks.1.resnets.0.conv1",
    "unet.down_blocks.2.resnets.0.conv1", "unet.mid_block.resnets.0.conv1",
    "unet.up_blocks.0.resnets.0.conv1", "text_encoder.text_model.encoder.layers.3.mlp.fc1",
    "text_encoder_2.text_model.encoder.layers.3.mlp.fc1",
]  # fmt: skip
FLUX = [f"transformer.double_blocks.{i}.img_attn.qkv" for i in range(12)]
FLUX += [f"transformer.single_blocks.{i}.linear1" for i in range(12)]


def lora_of(names: list[str], rank: int = 3) -> RankedLora:
    return random_lora({name: (8, 6, rank, None) for name in names})


@pytest.mark.parametrize("names", [ORDERED, DIFFUSERS, FLUX])
def test_layers_are_sorted_as_in_the_model(names):
    shuffled = random.Random(0).sample(names, len(names))
    assert sorted(shuffled, key=order_key) == names
    assert list(in_model_order(lora_of(shuffled)).layers) == names


def test_the_order_of_training_stays():
    names = random.Random(0).sample(ORDERED, len(ORDERED))
    lora = RankedLora(lora_of(names).layers, Origin(Learned(ranks=dict.fromkeys(names, 1))))
    assert list(in_model_order(lora).layers) == names


def test_the_table_has_alpha_as_the_file_has_it(tmp_path):
    tensors = {}
    for i, name in enumerate(ORDERED[:3]):
        tensors |= {
            f"{name}.lora_down.weight": torch.ones(4, 8),
            f"{name}.alpha": torch.tensor(2.0),
        }
        tensors[f"{name}.lora_up.weight"] = torch.eye(6, 4) * (i + 1)
    path = foreign(tmp_path / "a.safetensors", tensors)
    lora = in_model_order(load(path))
    rows = [
        [cell.strip() for cell in line.strip("|").split("|")]
        for line in layer_table(lora, file_scales(path)).splitlines()
    ]
    assert {len(row) for row in rows} == {7}
    assert [row[0] for row in rows[2:-1]] == ORDERED[:3]
    # each of 4 rows of ones has norm sqrt(8), times 2 / 4
    assert rows[2][1:] == ["4", "2 / 4", "2.828", "112", "7.14%", "6"]
    assert rows[-1][:2] == ["all 3, mean rank 4.00", "12"]
    assert layer_table(lora).splitlines()[2].split("|")[3].strip() == "4 / 4"


@pytest.mark.parametrize("name", ["a|b", "a\nb", " a\r\n| b "])
def test_a_name_cannot_break_the_table(name):
    assert layer_table(lora_of([name])).splitlines()[2].startswith("| a b | 3 | 3 / 3 |")


def test_an_adapter_of_a_run_tells_its_facts():
    adapters = trained()
    from lora2_core import finish

    info = {"settings": {"learning_rate": 0.01, "optimizer": "adamw"}, "steps": 8}
    lora = finish(adapters, info)
    adapters.detach()
    text = metadata_text(as_saved(lora))
    assert "ss_learning_rate: 0.01" in text and "ss_steps: 8" in text and "lora2.settings" in text
    assert "title" not in text and "date" not in text
    assert "steps 8, learning rate 0.01" in summary(lora, "adapter", as_saved(lora))


def test_what_a_file_said_stays_with_an_adapter_made_of_it():
    """As far as it is still true: no ranks and no hashes."""
    metadata = {"ss_steps": "40", "ss_network_dim": "32", "sshs_model_hash": "abc"}
    facts = as_saved(
        RankedLora(lora_of(ORDERED).layers, Origin(file=SourceFile(metadata=metadata)))
    )
    assert facts["ss_steps"] == "40" and facts["ss_network_dim"] == "Dynamic"
    assert "sshs_model_hash" not in facts


@pytest.mark.parametrize(
    "key, value, expected",
    [
        ("ss_training_started_at", "1700000000.5", "1700000000.5 (2023-11-14 22:13 UTC)"),
        ("ss_training_started_at", "1e300", "1e300"),
        ("ss_training_started_at", "nan", "nan"),
        ("ss_training_started_at", "yesterday", "yesterday"),
        ("ss_network_args", '{"a":"é"}', '{\n "a": "é"\n}'),
        ("x", "[1,", "[1,"),
        ("x", "[" * 500_000, "[" * LONGEST + " … (500000 characters)"),
        ("x", "", ""),
        ("x", "__import__('os').abort()", "__import__('os').abort()"),
    ],
)
def test_values_are_readable(key, value, expected):
    assert readable(key, value) == expected


def test_a_cut_value_tells_the_length_that_the_file_has():
    value = json.dumps(list(range(1000)))
    assert readable("x", value).endswith(f"… ({len(value)} characters)")


def test_the_summary_of_a_file_has_its_size_and_trigger():
    metadata = {"modelspec.trigger_phrase": "ohwx owl"}
    metadata["ss_optimizer"] = "torch.optim.adamw.AdamW(weight_decay=0.01)"
    text = summary(lora_of(ORDERED), "a.safetensors", metadata, 12_345_678)
    assert text.startswith("a.safetensors: 12.35 MB (0.00 MB in fp16), 14 layers\nrank 3 every")
    assert "optimizer AdamW\n" in text and "\ntrigger: ohwx owl\n" in text


def test_the_picture_has_text_encoders_and_kinds_of_blocks_apart():
    parts = sections(rank_map(lora_of([*ORDERED, *DIFFUSERS])))
    assert [len(part.rows) for part in parts] == [6, 4, 1, 2, 1, 1, 1]
    assert sum(len(part.cells) for part in parts) == len(ORDERED) + len(DIFFUSERS)
    te = next(part for part in parts if part.title.startswith("lora_te1"))
    assert (te.title, te.labels) == ("lora_te1.text_model_encoder_layers", ["2", "11"])
    leaves = [f"blocks.0.{x}" for x in ("self_attn.out", "self_attn.v", "self_attn.k", "mlp.q")]
    (part,) = sections(rank_map(lora_of(leaves)))
    assert part.columns == ["mlp.q", "self_attn.k", "self_attn.v", "self_attn.out"]


def test_a_picture_shows_every_change():
    lora = lora_of(ORDERED)
    first = picture(lora, "x")
    assert first.dtype == np.uint8 and first.shape[2] == 3 and first.shape[1] > 1024
    assert np.array_equal(first, picture(lora, "x"))
    name = ORDERED[5]
    layer = lora.layers[name]
    louder = RankedLora(dict(lora.layers) | {name: LoraLayer(layer.up * 1.3, layer.down)})
    half = first.shape[1] // 2
    differs = (first != picture(louder, "x")).any((0, 2))
    assert differs[half:].any() and not differs[:half].any(), "the norms, and not the ranks"


@pytest.mark.parametrize(
    "lora, title",
    [
        (random_lora(), "$formula_{$ \\broken"),
        (lora_of(["$x^{"]), "a" * 500),
        (lora_of(["proj"], rank=0), "rank 0"),
        (lora_of([f"a.{i}.{'long' * 30}{i}" for i in range(40)]), "wide"),
        (RankedLora({"a": LoraLayer(torch.full((2, 1), 3e38), torch.ones(1, 2))}), "huge"),
        (RankedLora({"a": LoraLayer(torch.full((2, 1), torch.inf), torch.ones(1, 2))}), "inf"),
    ],
)
def test_anything_can_be_drawn_and_described(lora, title):
    assert picture(lora, title).std() > 1
    assert summary(lora, title) and layer_table(lora)


@pytest.mark.parametrize(
    "value, text",
    [
        (8, "8"), (128, "128"), (0.0, "0"), (9.97, "10"), (0.194, "0.19"), (0.0995, "0.10"),
        (1.04, "1.0"), (107.3, "107"), (3e-7, "3e-7"), (2.5e12, "2e12"), (float("inf"), "inf"),
    ],
)  # fmt: skip
def test_numbers_are_short(value, text):
    assert number(value) == text and re.fullmatch(r"[\d.e-]+|inf", text)
