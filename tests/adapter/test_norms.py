"""The norm of an update, |(alpha / r) B A|_F, through rank x rank Gram matrices: it is that of the
full matrix, for every kind of layer and every kind of file.
"""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from lora2_core import LoraLayer, RankedLora, load, save
from lora2_core.charts.info import file_scales
from tests.toys import foreign

SIZES = st.integers(1, 9)


def naive(up: torch.Tensor, down: torch.Tensor, scale: float = 1.0) -> float:
    """The full matrix, entry by entry."""
    return float((scale * up.double().flatten(1) @ down.double().flatten(1)).square().sum().sqrt())


def factors(seed: int, *shapes: tuple[int, ...], spread: float = 1.0) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(shape, generator=generator) * spread for shape in shapes]


@given(SIZES, SIZES, st.sampled_from([1, 2, 3]), st.integers(1, 6), st.integers(0, 2**31))
def test_a_convolution(out: int, channels: int, kernel: int, rank: int, seed: int):
    up, down = factors(seed, (out, rank, 1, 1), (rank, channels, kernel, kernel))
    assert LoraLayer.from_tensors(up, down).norm == pytest.approx(naive(up, down), rel=1e-7)


@given(SIZES, SIZES, st.integers(1, 6), st.integers(-12, 12), st.integers(0, 2**31))
def test_any_magnitude(out: int, fan_in: int, rank: int, exponent: int, seed: int):
    """fp32 factors whose squares would leave fp32."""
    up, down = factors(seed, (out, rank), (rank, fan_in), spread=10.0**exponent)
    assert LoraLayer(up, down).norm == pytest.approx(naive(up, down), rel=1e-7, abs=0)


@given(SIZES, SIZES, st.integers(1, 6), st.integers(0, 2**31))
def test_the_singular_basis_changes_nothing(out: int, fan_in: int, rank: int, seed: int):
    layer = LoraLayer(*factors(seed, (out, rank), (rank, fan_in)))
    energy = float(layer.rotated().energy.sum())
    assert layer.norm == pytest.approx(math.sqrt(energy), rel=1e-5)


@pytest.mark.parametrize(
    "base, down_key, up_key",
    [
        ("lora_unet_mid_block_a", "lora_down.weight", "lora_up.weight"),
        ("unet.mid_block.a", "lora.down.weight", "lora.up.weight"),
        ("base_model.model.mid_block.a", "lora_A.weight", "lora_B.weight"),
        ("transformer.blocks.0.a", "lora_A.default.weight", "lora_B.default.weight"),
    ],
)
@pytest.mark.parametrize("alpha", [None, 1.0, 4.0, 7.5, -2.0])
@pytest.mark.parametrize("kernel", [(), (3, 3)])
def test_a_file_of_every_naming(tmp_path, base, down_key, up_key, alpha, kernel):
    up, down = factors(3, (12, 4, *(1 for _ in kernel)), (4, 10, *kernel))
    tensors = {f"{base}.{down_key}": down, f"{base}.{up_key}": up}
    if alpha is not None:
        tensors[f"{base}.alpha"] = torch.tensor(alpha)
    path = foreign(tmp_path / "a.safetensors", tensors)
    scale = 1.0 if alpha is None else alpha / 4
    assert load(path).layers[base].norm == pytest.approx(naive(up, down, abs(scale)), rel=1e-6)
    assert file_scales(path) == {base: (4.0 if alpha is None else alpha, 4)}


@pytest.mark.parametrize("form, scale", [("kohya", (4, 3)), ("peft", (3, 3)), ("uniform", (4, 5))])
def test_our_own_files_have_one_alpha_and_module_paths(tmp_path, form, scale):
    names = [f"diffusion_model.middle_block.{i}.to_q" for i in range(3)]
    layers = {
        name: LoraLayer(*factors(i, (12, rank), (rank, 10)))
        for i, (name, rank) in enumerate(zip(names, (3, 5, 0), strict=True))
    }
    path = tmp_path / "a.safetensors"
    save(path, RankedLora(layers), form=form, dtype="fp32")
    loaded = load(path)
    assert file_scales(path) == {names[0]: scale, names[1]: (scale[0] if form != "peft" else 5, 5)}
    for name in names:
        assert loaded.layers[name].norm == pytest.approx(layers[name].norm, rel=1e-5)
