"""Adapter files of other programs are read in every spelling, with their scale."""

import json
from pathlib import Path

import pytest
import safetensors.torch
import torch

import lora2_core as lora2
from lora2_core.files.loading import UNREAD_NOTE
from tests.reliability.malformed import OTHERS
from tests.toys import foreign, metadata_of, random_lora

SPELLINGS = [
    ("lora_unet_mid_attn.lora_up.weight", "lora_unet_mid_attn.lora_down.weight"),
    ("unet.mid.to_q_lora.up.weight", "unet.mid.to_q_lora.down.weight"),
    ("unet.mid.to_q.lora.up.weight", "unet.mid.to_q.lora.down.weight"),
    ("unet.mid.to_q.lora_B.weight", "unet.mid.to_q.lora_A.weight"),
    ("transformer.x.lora_B.default.weight", "transformer.x.lora_A.default.weight"),
    ("diffusion_model.x.lora_B", "diffusion_model.x.lora_A"),
    ("base_model.model.x.lora_B.owl_2.weight", "base_model.model.x.lora_A.owl_2.weight"),
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
    assert not loaded.singular and not loaded.origin.run.history


@pytest.mark.parametrize("alpha", [None, 1.5])
def test_a_locon_with_mid_is_the_plain_convolution_that_it_stands_for(alpha, tmp_path: Path):
    up, mid, down = torch.randn(6, 4), torch.randn(4, 4, 3, 3), torch.randn(4, 5)
    tensors = {
        "lora_unet_conv.lora_up.weight": up[:, :, None, None],
        "lora_unet_conv.lora_mid.weight": mid,
        "lora_unet_conv.lora_down.weight": down[:, :, None, None],
    }
    if alpha:
        tensors["lora_unet_conv.alpha"] = torch.tensor(alpha)
    layer = lora2.load(foreign(tmp_path / "f.safetensors", tensors)).layers["lora_unet_conv"]
    expected = torch.einsum("oa,abhw,bi->oihw", up, mid, down) * (alpha / 4 if alpha else 1)
    torch.testing.assert_close(layer.delta(), expected, rtol=1e-5, atol=1e-5)


NAMES = [  # name in a file of another program, kohya name, PEFT name
    ("unet.down.0.to_q", "lora_unet_down_0_to_q", "unet.down.0.to_q"),
    ("unet.a.attn1.processor.to_out", "lora_unet_a_attn1_to_out_0", "unet.a.attn1.to_out.0"),
    ("unet.a.attn1.processor.to_q", "lora_unet_a_attn1_to_q", "unet.a.attn1.to_q"),
    ("text_encoder.t.0.fc1", "lora_te1_t_0_fc1", "text_encoder.t.0.fc1"),
    ("text_encoder_2.t.0.fc1", "lora_te2_t_0_fc1", "text_encoder_2.t.0.fc1"),
    ("transformer.blocks.0.q", "transformer.blocks.0.q", "transformer.blocks.0.q"),
    ("base_model.model.b.0", "base_model.model.b.0", "base_model.model.b.0"),
    ("diffusion_model.out.2", "lora_unet_out_2", "unet.out.2"),
]


@pytest.mark.parametrize(("name", "kohya", "peft"), NAMES)
def test_names_of_other_programs_are_written_as_loaders_read_them(name, kohya, peft, tmp_path):
    pair = {f"{name}.lora_B.weight": torch.randn(8, 2), f"{name}.lora_A.weight": torch.randn(2, 9)}
    lora = lora2.load(foreign(tmp_path / "f.safetensors", pair))
    for form, base, role in (("kohya", kohya, "lora_up"), ("peft", peft, "lora_B")):
        path = tmp_path / f"{form}.safetensors"
        lora2.save(path, lora, form=form, dtype="fp32")
        assert f"{base}.{role}.weight" in safetensors.torch.load_file(path)
        assert list(lora2.load(path).layers) == [name]


def test_peft_metadata_has_the_ranks_of_every_part(tmp_path: Path):
    layers = {
        "unet.a": (9, 9, 3, None),
        "unet.b": (9, 9, 2, None),
        "text_encoder.c": (9, 9, 4, None),
    }
    saved = lora2.save(tmp_path / "a.safetensors", random_lora(layers), form="peft")
    config = json.loads(metadata_of(tmp_path / "a.safetensors")["lora_adapter_metadata"])
    assert config["unet.rank_pattern"] == {"^a$": 3, "^b$": 2}
    assert config["text_encoder.alpha_pattern"] == {"^c$": 4} and saved.ranks["unet.a"] == 3


def test_what_a_file_says_of_itself_is_carried_over_as_far_as_it_stays_true(tmp_path: Path):
    said = {
        "ss_v2": "True",
        "ss_base_model_version": "sd_v2",
        "ss_tag_frequency": '{"10_owl": {"owl": 8}}',
        "modelspec.author": "somebody, https://example.com/a/b",
        "modelspec.description": "an owl",
        "modelspec.architecture": "stable-diffusion-v2-768-v/lora",
    }
    stale = {
        "ss_network_dim": "64",
        "ss_network_alpha": "32",
        "sshs_model_hash": "0" * 64,
        "modelspec.hash_sha256": "0x00",
        "ss_output_name": "old",
        "modelspec.title": "old",
        "ss_sd_model_name": "/home/me/models/base.safetensors",
        "ss_vae_name": "C:\\Users\\me\\vae.pt",
        "ss_training_comment": "x" * 100_000,
        "lora_adapter_metadata": "{}",
        "format": "pt",
    }
    pair = {"a.lora_up.weight": torch.randn(8, 2), "a.lora_down.weight": torch.randn(2, 9)}
    lora = lora2.load(foreign(tmp_path / "f.safetensors", pair, said | stale))
    lora2.save(tmp_path / "a.safetensors", lora)
    metadata = metadata_of(tmp_path / "a.safetensors")
    assert {k: metadata[k] for k in said} == said
    assert metadata["ss_network_dim"] == metadata["ss_network_alpha"] == "Dynamic"
    assert metadata["modelspec.title"] == metadata["ss_output_name"] == "a"
    assert not any(metadata.get(key) == value for key, value in stale.items())


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


@pytest.mark.parametrize("kind", OTHERS)
def test_changes_of_other_kinds_stay_bit_for_bit(kind: str, tmp_path: Path):
    """Beside a pair they count in the size, are saved again, and no cut touches them."""
    generator = torch.Generator().manual_seed(1)
    tensors = {
        f"lora_unet_x{ending}": torch.rand(shape, generator=generator).half()
        for ending, shape in OTHERS[kind].items()
    }
    pair = {"lora_unet_a.lora_up.weight": torch.randn(8, 6, generator=generator),
            "lora_unet_a.lora_down.weight": torch.randn(6, 9, generator=generator)}  # fmt: skip
    lora = lora2.load(foreign(tmp_path / "f.safetensors", pair | tensors))
    assert list(lora.layers) == ["lora_unet_a"] and list(lora.others) == ["lora_unet_x"]
    assert lora.other_bytes == sum(2 * t.numel() for t in tensors.values())
    cut = lora.rotated().truncated(0.3)
    assert lora.megabytes() > cut.megabytes() > lora.other_bytes / 1e6
    lora2.save(tmp_path / "a.safetensors", cut)
    again = lora2.load(tmp_path / "a.safetensors")
    found = safetensors.torch.load_file(tmp_path / "a.safetensors")
    assert again.ranks == cut.ranks and list(again.others) == ["lora_unet_x"]
    assert all(torch.equal(found[key], tensor) for key, tensor in tensors.items())


@pytest.mark.parametrize(
    "alpha", [torch.tensor(2), torch.tensor([2]), torch.tensor([[2.0]])], ids=str
)
def test_alpha_may_be_any_one_number(alpha, tmp_path: Path):
    up, down = torch.randn(6, 4), torch.randn(4, 10)
    tensors = {"a.lora_up.weight": up, "a.lora_down.weight": down, "a.alpha": alpha}
    layer = lora2.load(foreign(tmp_path / "f.safetensors", tensors)).layers["a"]
    torch.testing.assert_close(layer.delta(), up @ down / 2)


def test_an_alpha_of_0_turns_a_layer_off_and_is_told(tmp_path: Path):
    tensors = {f"{n}.lora_up.weight": torch.randn(6, 4) for n in "ab"}
    tensors |= {f"{n}.lora_down.weight": torch.randn(4, 10) for n in "ab"}
    lora = lora2.load(foreign(tmp_path / "f.safetensors", tensors | {"b.alpha": torch.tensor(0)}))
    assert lora.ranks == {"a": 4, "b": 0} and not lora.layers["b"].delta().any()
    ((sentence, *values),) = lora.origin.file.notes
    assert "alpha 0" in sentence and values == [1, "b"]


PEFT_ALPHAS = [  # entries of the metadata, and the alpha of a layer x.q of rank 4
    ({"r": 4, "lora_alpha": 8}, 8),
    ({"r": 8, "lora_alpha": 8, "rank_pattern": {"^x\\.q$": 4}, "alpha_pattern": {"q": 6}}, 6),
    ({"r": 4, "lora_alpha": 8, "alpha_pattern": {"^q$": 6, "z.q": 5, "x.k": 4}}, 8),
    ({"r": 4, "lora_alpha": 8, "use_rslora": True}, 16),
    ({"r": 8, "lora_alpha": 8}, 4),  # of another rank: not of these tensors
    ({"r": 4, "lora_alpha": "8"}, 4),
    ({"r": 4, "alpha_pattern": {"x.q": 6}}, 4),
    ({"r": 4, "lora_alpha": 8, "alpha_pattern": {"(a+)+$": 1, "x.q": True}}, 8),
]  # fmt: skip


@pytest.mark.parametrize(("config", "alpha"), PEFT_ALPHAS, ids=str)
def test_the_alpha_of_peft_stands_in_the_metadata(config: dict, alpha: float, tmp_path: Path):
    up, down = torch.randn(6, 4), torch.randn(4, 10)
    pair = {"unet.x.q.lora_B.weight": up, "unet.x.q.lora_A.weight": down}
    said = {"lora_adapter_metadata": json.dumps({f"unet.{k}": v for k, v in config.items()})}
    lora = lora2.load(foreign(tmp_path / "f.safetensors", pair, said))
    torch.testing.assert_close(lora.layers["unet.x.q"].delta(), up @ down * alpha / 4)
    unread = any(isinstance(value, str) for value in config.values())
    assert bool(lora.origin.file.notes) == (alpha != 4 or unread)


@pytest.mark.parametrize("said", ["", "[]", "3", "{", '{"unet.r": []}', "[" * 100_000])
def test_metadata_that_are_none_of_peft_say_nothing_and_that_is_told(said: str, tmp_path: Path):
    pair = {"unet.x.lora_B.weight": torch.randn(6, 4), "unet.x.lora_A.weight": torch.randn(4, 10)}
    path = foreign(tmp_path / "f.safetensors", pair, {"lora_adapter_metadata": said})
    assert lora2.load(path).origin.file.notes == [UNREAD_NOTE]


@pytest.mark.parametrize(("rows", "columns", "rank"), [(5, 6, 6), (12, 1, 32), (7, 7, 384)])
def test_a_rank_above_the_shape_comes_down_without_an_error(rows, columns, rank, tmp_path: Path):
    up, down = torch.randn(rows, rank), torch.randn(rank, columns)
    pair = {"a.lora_up.weight": up, "a.lora_down.weight": down}
    lora = lora2.load(foreign(tmp_path / "f.safetensors", pair))
    assert lora.ranks == {"a": min(rows, columns)}
    torch.testing.assert_close(lora.layers["a"].delta(), up @ down, rtol=1e-5, atol=1e-5)


def test_a_mid_of_patches_is_read_where_it_makes_the_file_little_larger(tmp_path: Path):
    """Kernels of 14 x 14 over three colours; over many channels lora_down would be huge."""
    core, path = torch.randn(3, 3, 14, 14), tmp_path / "a.safetensors"
    up, down = torch.randn(20, 3, 1, 1), torch.randn(3, 3, 1, 1)
    tensors = {"a.lora_up.weight": up, "a.lora_mid.weight": core, "a.lora_down.weight": down}
    safetensors.torch.save_file(tensors, path)
    (layer,) = lora2.load(path).layers.values()
    wanted = torch.einsum("orxy,rshw,sizv->oihw", up, core, down)
    torch.testing.assert_close(layer.delta().reshape(20, 3, 14, 14), wanted, rtol=1e-4, atol=1e-4)
    safetensors.torch.save_file(tensors | {"a.lora_down.weight": torch.randn(3, 64, 1, 1)}, path)
    with pytest.raises(ValueError, match="don't fit together"):
        lora2.load(path)


@pytest.mark.parametrize("kernel", [(3,), (1, 3), (3, 3, 3)], ids=str)
@pytest.mark.parametrize("mid", [False, True])
def test_convolutions_of_one_to_three_sides(kernel: tuple, mid: bool, tmp_path: Path):
    ones = [1] * len(kernel)
    up = torch.randn(6, 4, *ones)
    tensors = {"a.lora_up.weight": up, "a.lora_down.weight": torch.randn(4, 5, *kernel)}
    wanted = torch.einsum("or,ri...->oi...", up.flatten(1), tensors["a.lora_down.weight"])
    if mid:
        core, down = torch.randn(4, 4, *kernel), torch.randn(4, 5, *ones)
        tensors |= {"a.lora_mid.weight": core, "a.lora_down.weight": down}
        wanted = torch.einsum("oa,ab...,bi->oi...", up.flatten(1), core, down.flatten(1))
    lora = lora2.load(foreign(tmp_path / "f.safetensors", tensors))
    torch.testing.assert_close(lora.layers["a"].delta(), wanted, rtol=1e-4, atol=1e-4)
    lora2.save(tmp_path / "a.safetensors", lora, dtype="fp32")
    again = lora2.load(tmp_path / "a.safetensors")
    assert again.layers.keys() == lora.layers.keys() and not again.origin.file.left_out
    torch.testing.assert_close(again.layers["a"].delta(), wanted, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("dtype", [torch.int8, torch.uint8, torch.bool])
def test_weights_of_whole_numbers_are_refused_by_their_kind(dtype, tmp_path: Path):
    """Such a file is quantised or packed: nothing in it is infinite or NaN."""
    pair = {f"a.lora_{k}.weight": torch.ones(2, 2).to(dtype) for k in ("up", "down")}
    kind = str(dtype).removeprefix("torch.")
    with pytest.raises(ValueError, match=f"a.lora_.* holds {kind} values, but weights are"):
        lora2.load(foreign(tmp_path / "f.safetensors", pair))
