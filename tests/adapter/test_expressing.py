"""Names in each form of file: parts of fused weights are joined and split without an error, and a
name that is not sure to be read is refused in one sentence.
"""

from dataclasses import replace

import pytest
import safetensors.torch
import torch

import lora2_core as lora2
from lora2_core.adapter.expressing import expressed
from lora2_core.adapter.lora import LoraLayer, RankedLora
from lora2_core.adapter.model_names import ModelNames, Target
from lora2_core.adapter.origin import BaseModel, Origin, SourceFile
from lora2_core.adapter.other_kinds import OtherChange
from lora2_core.files.saving import FORMATS
from tests.toys import foreign, random_lora

QKV, OUT = "diffusion_model.double_blocks.0.img_attn.qkv", "diffusion_model.final.linear"
BLOCK = "transformer.transformer_blocks.0"
PARTS = [f"{BLOCK}.attn.to_{n}" for n in "qkv"]
TARGETS = {
    QKV: Target(QKV), "lora_unet_double_blocks_0_img_attn_qkv": Target(QKV),
    **{name: Target(QKV, 8 * i, 8) for i, name in enumerate(PARTS)},
    OUT: Target(OUT), "lora_unet_final_linear": Target(OUT),
    f"{BLOCK}.norm_out.linear": Target(OUT, swapped=True),
    "lora_unet_musubi_to_q": Target(QKV, 0, 8),  # read by us, not by ComfyUI
}  # fmt: skip
NAMES = ModelNames(TARGETS, len(TARGETS) - 1, {QKV: 24, OUT: 6})


def adapter(shapes: dict, **file) -> RankedLora:
    lora = random_lora(shapes)
    return replace(lora, origin=Origin(base=BaseModel(names=NAMES), file=SourceFile(**file)))


def dense(lora: RankedLora) -> dict[str, torch.Tensor]:
    """Path -> the update of the whole weight."""
    found = {QKV: torch.zeros(24, 10), OUT: torch.zeros(6, 10)}
    for name, layer in lora.layers.items():
        target = TARGETS.get(name, Target(name))
        update = layer.delta()
        if target.swapped:
            update = torch.cat([update[len(update) // 2 :], update[: len(update) // 2]])
        found[target.path][target.start : target.start + len(update)] += update
    return found


SHAPES = {
    "fused": {QKV: (24, 10, 4, None), OUT: (6, 10, 2, None)},
    "split": {PARTS[0]: (8, 10, 2, None), PARTS[2]: (8, 10, 3, None)},
    "both": {QKV: (24, 10, 4, None), PARTS[1]: (8, 10, 3, None)},
    "swapped": {f"{BLOCK}.norm_out.linear": (6, 10, 2, None)},
    "musubi": {"lora_unet_musubi_to_q": (8, 10, 2, None)},
}


@pytest.mark.parametrize("form", ["kohya", "peft", "comfy", "nunchaku", "whole"])
@pytest.mark.parametrize("kind", SHAPES)
def test_parts_are_joined_and_split_without_an_error(form: str, kind: str):
    lora = adapter(SHAPES[kind])
    found = expressed(lora, form, {})
    in_file = RankedLora({found.bases[n]: layer for n, layer in found.lora.layers.items()})
    for path, wanted in dense(lora).items():
        torch.testing.assert_close(dense(in_file)[path], wanted, rtol=1e-5, atol=1e-5)
    assert all(NAMES.reads(base, TARGETS[base]) for base in found.bases.values())
    whole = all(TARGETS[base].rows is None for base in found.bases.values())
    assert whole == (form not in ("peft", "nunchaku") or kind == "swapped")


def test_a_part_has_the_rank_that_it_had_before_it_was_joined():
    joined = expressed(adapter(SHAPES["split"]), "kohya", {}).lora
    assert joined.ranks == {QKV: 5}
    again = expressed(joined, "peft", {})
    assert {again.bases[n]: r for n, r in again.lora.ranks.items() if r} == {
        PARTS[0]: 2, PARTS[2]: 3
    }  # fmt: skip


def test_nunchaku_has_one_rank_for_q_k_and_v(tmp_path):
    lora = adapter(SHAPES["split"])
    lora2.save(tmp_path / "a.safetensors", lora, form="nunchaku", dtype="fp32")
    tensors = safetensors.torch.load_file(tmp_path / "a.safetensors")
    ranks = {key: t.shape[0] for key, t in tensors.items() if "lora_A" in key}
    assert set(ranks.values()) == {3} and len(ranks) == 2


def test_layers_keep_the_spelling_of_their_file_until_another_is_asked_for(tmp_path):
    keys = [("down_blocks.0.attn1.processor.to_q_lora.up.weight",
             "down_blocks.0.attn1.processor.to_q_lora.down.weight"),
            ("lora_unet_x.lora_up.weight", "lora_unet_x.lora_down.weight"),
            ("text_encoder.y.lora_B.weight", "text_encoder.y.lora_A.weight"),
            ("z.lora_B.owl.weight", "z.lora_A.owl.weight")]  # fmt: skip
    tensors = {up: torch.randn(6, n) for n, (up, _) in enumerate(keys, 1)}
    tensors |= {down: torch.randn(n, 5) for n, (_, down) in enumerate(keys, 1)}
    tensors |= {"lora_unet_w.lokr_w1": torch.randn(2, 2), "lora_unet_w.lokr_w2": torch.randn(3, 2)}
    lora = lora2.load(foreign(tmp_path / "a.safetensors", tensors))
    lora2.save(tmp_path / "b.safetensors", lora, form="original", dtype="fp32")
    saved = safetensors.torch.load_file(tmp_path / "b.safetensors")
    assert saved.keys() - {"lora_unet_x.alpha"} == tensors.keys()
    again = lora2.load(tmp_path / "b.safetensors")
    for name, layer in lora.layers.items():
        torch.testing.assert_close(again.layers[name].delta(), layer.delta(), rtol=1e-4, atol=1e-5)
    with pytest.raises(ValueError, match="original, but layer a comes from no file: choose kohya"):
        lora2.save(tmp_path / "c.safetensors", random_lora({"a": (4, 4, 1, None)}), form="original")


UNSURE = [  # a name of another program, and the forms that have no sure name for it
    ("diffusion_model.layers.0.attention.to_q", ("kohya", "comfy", "uniform", "nunchaku")),
    ("transformer_blocks.0.attn.to_q", ("kohya", "comfy", "uniform", "nunchaku", "peft")),
    ("transformer.blocks.0.q", ("kohya", "comfy", "uniform", "nunchaku")),
    ("lora_unet_down_blocks_0_attn_to_q", ("comfy", "peft", "nunchaku")),
    ("unet.down_blocks.0.attn.to_q", ("comfy", "nunchaku")),
    ("diffusion_model.blocks.0.self_attn.q", ("nunchaku",)),
    ("lora_te1_text_model_encoder_layers_0_mlp_fc1", ("nunchaku",)),
]


@pytest.mark.parametrize(("name", "forms"), UNSURE)
@pytest.mark.parametrize("form", [form for form in FORMATS if form != "original"])
def test_without_the_model_only_sure_names_are_written(name, forms, form):
    lora = random_lora({name: (4, 4, 1, None)})
    file = SourceFile(keys={name: f"{name}.lora_up.weight"})
    lora = replace(lora, origin=Origin(file=file))
    if form in forms:
        with pytest.raises(ValueError, match="no name in|no module path|nunchaku reads") as caught:
            expressed(lora, form, {})
        assert "\n" not in str(caught.value) and name in str(caught.value)
    else:
        assert expressed(lora, form, {}).bases[name]


def test_a_change_that_cannot_be_split_is_refused_where_it_would_have_to_be():
    change = OtherChange({".lokr_w1": torch.ones(4, 2), ".lokr_w2": torch.ones(6, 5)})
    lora = replace(adapter({}), others={QKV: change})
    assert expressed(lora, "kohya", {}).bases == {QKV: "lora_unet_double_blocks_0_img_attn_qkv"}
    with pytest.raises(ValueError, match="no name in the peft format"):
        expressed(lora, "peft", {})


def test_two_layers_of_one_name_are_no_file():
    lora = random_lora({n: (4, 4, 1, None) for n in ("unet.down_blocks.0.q", "down_blocks.0.q")})
    with pytest.raises(ValueError, match="have the same name in the kohya format"):
        expressed(lora, "kohya", {})


def test_a_layer_of_zeros_stays_one():
    layer = LoraLayer(torch.zeros(8, 0), torch.zeros(0, 10))
    lora = replace(adapter({}), layers={PARTS[0]: layer})
    assert expressed(lora, "kohya", {}).lora.ranks == {QKV: 0}
