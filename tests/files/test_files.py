"""Adapter files: what was saved is what is loaded, in every form, within the size asked for."""

import hashlib
import json
import math
import struct
from dataclasses import replace
from pathlib import Path

import pytest
import safetensors.torch
import torch
from torch import Tensor, nn

import lora2_core as lora2
from lora2_core.adapter.origin import Learned, Origin
from lora2_core.files.saving import DTYPES
from tests.tiers import each_once
from tests.toys import SHAPES, foreign, metadata_of, random_lora

Q, *_, CONV = SHAPES
BASE = "lora_unet_middle_block_1_transformer_blocks_0_attn2_to_out_0"
FREE = ("kohya", "peft", "uniform", "comfy")  # forms that any adapter can have
PLAIN = [dtype for dtype in DTYPES if dtype != "fp8"]  # without a scale in the alpha
CHOICES = pytest.mark.parametrize("form", FREE)


def header_of(path: Path) -> dict:
    data = path.read_bytes()
    return json.loads(data[8 : 8 + struct.unpack("<Q", data[:8])[0]])


def nearest_power(ranks: list[int]) -> float:
    """The power of two nearest to the mean, in octaves."""
    mean = sum(ranks) / len(ranks)
    return min((2.0**n for n in range(10)), key=lambda power: abs(math.log(power / mean)))


class Net(nn.Module):
    """Three layers of different shapes, one of them a convolution, the last one narrow."""

    def __init__(self):
        super().__init__()
        with torch.random.fork_rng(), torch.no_grad():
            torch.manual_seed(0)
            self.wide, self.conv = nn.Linear(24, 40), nn.Conv2d(6, 20, 3, stride=2, padding=1)
            self.narrow = nn.Linear(30, 3, bias=False)
        self.inputs = {
            "wide": torch.randn(5, 24, generator=torch.Generator().manual_seed(1)),
            "conv": torch.randn(2, 6, 8, 8, generator=torch.Generator().manual_seed(2)),
            "narrow": torch.randn(7, 30, generator=torch.Generator().manual_seed(3)),
        }

    def outputs(self) -> dict[str, Tensor]:
        with torch.no_grad():
            return {name: getattr(self, name)(x) for name, x in self.inputs.items()}

    def merge(self, lora: lora2.RankedLora) -> None:
        for name, layer in lora.layers.items():
            getattr(self, name).weight.data += layer.delta()


def attached(mode: str, target_rank: int = 9) -> tuple[Net, lora2.Adapters]:
    """As after training: every rank position has values, the ranks differ."""
    net, generator = Net(), torch.Generator().manual_seed(4)
    settings = lora2.RankSettings(mode=mode, target_rank=target_rank, start_rank=9, max_rank=16)
    adapters = lora2.attach(net, "wide|conv|narrow", settings)
    for component in adapters.components.values():
        component.lora_up.data.normal_(0, 0.1, generator=generator)
    return net, adapters


@CHOICES
@pytest.mark.parametrize("mode", ["adaptive", "paper", "fixed"])
def test_loaded_equals_live(form: str, mode: str, tmp_path: Path):
    net, adapters = attached(mode)
    live = net.outputs()
    saved = lora2.save(tmp_path / "a.safetensors", adapters, form=form, dtype="fp32")
    loaded = lora2.load(tmp_path / "a.safetensors")
    adapters.detach()
    net.merge(loaded)
    for name, expected in live.items():
        scale = float(expected.abs().max())
        found = net.outputs()[name]
        torch.testing.assert_close(found, expected, rtol=0, atol=1e-6 * max(1, scale))
    assert loaded.ranks == saved.ranks == {"wide": 9, "conv": 9, "narrow": 3}
    for name, layer in saved.layers.items():
        torch.testing.assert_close(loaded.layers[name].delta(), layer.delta(), rtol=0, atol=1e-6)
        assert loaded.layers[name].kernel == layer.kernel


@CHOICES
@pytest.mark.parametrize(("dtype", "off"), [("fp16", 2e-3), ("bf16", 2e-2)])
def test_half_precision_is_near(form: str, dtype: str, off: float, tmp_path: Path):
    lora = random_lora().rotated()
    lora2.save(tmp_path / "a.safetensors", lora, form=form, dtype=dtype)
    loaded = lora2.load(tmp_path / "a.safetensors")
    for name, layer in lora.layers.items():
        scale = float(layer.delta().abs().max())
        found = loaded.layers[name].delta()
        torch.testing.assert_close(found, layer.delta(), rtol=0, atol=off * scale)


@pytest.mark.parametrize("size", [1e-4, 1.0, 300.0])
@pytest.mark.parametrize("form", ["kohya", "uniform"])
def test_eight_bits_are_near_whatever_the_size_of_the_weights(form: str, size: float, tmp_path):
    """An update's error is that of 3 bits in lora_up and in lora_down; half of fp16's bytes."""
    lora = random_lora()
    layers = {n: replace(y, up=y.up * size, down=y.down * size) for n, y in lora.layers.items()}
    lora, path = replace(lora, layers=layers).rotated(), tmp_path / "a.safetensors"
    lora2.save(path, lora, form=form, dtype="fp8")
    loaded = lora2.load(path)
    for name, layer in lora.layers.items():
        off = (loaded.layers[name].delta() - layer.delta()).norm() / layer.delta().norm()
        assert 0.01 < float(off) < 0.05
    tensors = safetensors.torch.load_file(path)
    weights = [t for k, t in tensors.items() if not k.endswith(".alpha")]
    assert {t.dtype for t in weights} == {torch.float8_e4m3fn}
    assert max(float(t.float().abs().max()) for t in weights) <= 256
    assert len({float(t) for k, t in tensors.items() if k.endswith(".alpha")}) == 1


@pytest.mark.parametrize("form", ["peft", "comfy"])
def test_eight_bits_need_an_alpha(form: str, tmp_path: Path):
    with pytest.raises(ValueError, match=f"fp8 needs a scale .* the {form} format has none"):
        lora2.save(tmp_path / "a.safetensors", random_lora(), form=form, dtype="fp8")
    assert not list(tmp_path.iterdir())


@CHOICES
@pytest.mark.parametrize("dtype", PLAIN)
def test_shapes_types_and_alpha(form: str, dtype: str, tmp_path: Path):
    lora = lora2.save(tmp_path / "a.safetensors", random_lora(), form=form, dtype=dtype)
    tensors = safetensors.torch.load_file(tmp_path / "a.safetensors")
    names = {"peft": ("unet.", ".", "lora_A", "lora_B")}
    names["comfy"] = ("diffusion_model.", *names["peft"][1:])
    prefix, dot, down_key, up_key = names.get(form, ("lora_unet_", "_", "lora_down", "lora_up"))
    widest = max(lora.ranks.values())
    ranks = [widest if form == "uniform" else rank for rank in lora.ranks.values()]
    keys = set()
    for name, layer in lora.layers.items():
        base = prefix + name.removeprefix("diffusion_model.").replace(".", dot)
        rank = widest if form == "uniform" else layer.rank
        rows, fan_in, _, kernel = SHAPES[name]
        down, up = tensors[f"{base}.{down_key}.weight"], tensors[f"{base}.{up_key}.weight"]
        if kernel:
            assert up.shape == (rows, rank, 1, 1)
            assert down.shape == (rank, fan_in // 9, *kernel)
        else:
            assert up.shape == (rows, rank) and down.shape == (rank, fan_in)
        assert up.dtype == down.dtype == DTYPES[dtype]
        keys |= {f"{base}.{down_key}.weight", f"{base}.{up_key}.weight"}
        if form in ("kohya", "uniform"):
            alpha = tensors[f"{base}.alpha"]
            assert alpha.shape == () and float(alpha) == nearest_power(ranks), "one for the file"
            keys.add(f"{base}.alpha")
    assert set(tensors) == keys, "nothing else: one foreign key and other loaders refuse the file"


def test_uniform_padding_is_zero_and_may_exceed_a_layers_shape(tmp_path: Path):
    """Mergers want one rank; our own loader takes the padding off again."""
    shapes = {"big": (40, 40, 12, None), "tiny": (3, 40, 2, None)}
    saved = lora2.save(tmp_path / "a.safetensors", random_lora(shapes), form="uniform")
    up = safetensors.torch.load_file(tmp_path / "a.safetensors")["lora_unet_tiny.lora_up.weight"]
    assert up.shape == (3, 12) and (up[:, 2:] == 0).all()
    assert lora2.load(tmp_path / "a.safetensors").ranks == saved.ranks == {"big": 12, "tiny": 2}


def test_peft_metadata_gives_every_rank_and_alpha_by_anchored_patterns(tmp_path: Path):
    lora = lora2.save(tmp_path / "a.safetensors", random_lora(), form="peft")
    config = json.loads(metadata_of(tmp_path / "a.safetensors")["lora_adapter_metadata"])
    ranks = {f"^{name.removeprefix('diffusion_model.')}$": r for name, r in lora.ranks.items()}
    assert config["unet.rank_pattern"] == config["unet.alpha_pattern"] == ranks
    assert config["unet.r"] == config["unet.lora_alpha"]
    assert config["unet.target_modules"] == [key[1:-1] for key in ranks]


def test_the_file_says_what_it_is(tmp_path: Path):
    info = {
        "base": {"version": "sdxl_base_v1-0", "architecture": "stable-diffusion-xl-v1-base"},
        "settings": {"learning_rate": 1e-4, "seed": 7},
        "history": {"loss": [0.5] * 5000 + [float("nan")]},
    }
    adapters = attached("adaptive")[1]
    lora2.save(tmp_path / "mine.safetensors", adapters, info=info)
    metadata = metadata_of(tmp_path / "mine.safetensors")
    assert all(isinstance(value, str) for value in metadata.values())
    assert metadata["ss_base_model_version"] == "sdxl_base_v1-0"
    assert metadata["ss_network_dim"] == metadata["ss_network_alpha"] == "Dynamic"
    assert metadata["modelspec.architecture"] == "stable-diffusion-xl-v1-base/lora"
    assert metadata["modelspec.sai_model_spec"] == "1.0.1"
    assert metadata["ss_seed"] == "7"
    assert str(tmp_path) not in json.dumps(metadata), "no path of the user's machine"
    loaded = lora2.load(tmp_path / "mine.safetensors").origin
    assert len(loaded.run.history["loss"]) == 200 and loaded.run.history["loss"][-1] == 0
    assert loaded.run.settings == info["settings"]
    assert loaded.learned.ranks == adapters.ranks
    rates = dict(zip(adapters.ranks, adapters.rates.tolist(), strict=True))
    assert loaded.learned.nu == pytest.approx(rates, rel=1e-5)


def test_the_first_files_say_nothing_of_sensitivity(tmp_path: Path):
    """A file as the first release wrote it: rows of seven values. Energy alone then decides."""
    rows = [
        ["lora_unet_a", "diffusion_model.a", 6, 5, 0, 2, 0.287823],
        ["lora_unet_b", "diffusion_model.b", 4, 18, [3, 3], 1, 2.30259],
        ["lora_unet_c", "diffusion_model.c", 3, 3, 0, 1, 0.5],
    ]
    tensors = {
        "lora_unet_a.lora_up.weight": torch.eye(6, 2) * torch.tensor([3.0, 1.0]),
        "lora_unet_a.lora_down.weight": torch.eye(2, 5),
        "lora_unet_a.alpha": torch.tensor(2.0),
        "lora_unet_b.lora_up.weight": 20 * torch.eye(4, 1).view(4, 1, 1, 1),
        "lora_unet_b.lora_down.weight": torch.eye(1, 18).view(1, 2, 3, 3),
        "lora_unet_b.alpha": torch.tensor(1.0),
    }
    metadata = {
        "lora2.version": "1", "lora2.basis": "singular", "lora2.history": "{}",
        "lora2.settings": "{}", "lora2.layers": json.dumps(rows),
    }  # fmt: skip
    loaded = lora2.load(foreign(tmp_path / "old.safetensors", tensors, metadata))
    assert list(loaded.ranks.values()) == [2, 1, 0]
    assert list(loaded.origin.learned.ranks.values()) == [2, 1, 1]
    assert list(loaded.origin.learned.nu.values()) == [0.287823, 2.30259, 0.5]
    assert loaded.origin.learned.sensitivity == {}
    assert list(loaded.within(22 + 11).ranks.values()) == [1, 1, 0]
    assert list(loaded.within(22).ranks.values()) == [0, 1, 0]
    lora2.save(tmp_path / "new.safetensors", loaded)
    again = lora2.load(tmp_path / "new.safetensors")
    assert list(again.origin.learned.sensitivity.values()) == [1.0, 1.0, 1.0]
    assert again.within(33).ranks == loaded.within(33).ranks


def test_sensitivity_comes_back_and_decides_what_a_loaded_file_keeps(tmp_path: Path):
    lora = random_lora().rotated()
    factors = dict(zip(SHAPES, (1.0, 0.0123456789, 3.5e-21, 0.0), strict=True))
    lora = replace(lora, origin=Origin(Learned(sensitivity=factors)))
    lora2.save(tmp_path / "a.safetensors", lora, dtype="fp32")
    rows = json.loads(metadata_of(tmp_path / "a.safetensors")["lora2.layers"])
    assert {len(row) for row in rows} == {8}
    loaded = lora2.load(tmp_path / "a.safetensors")
    assert loaded.origin.learned.sensitivity == pytest.approx(factors, rel=1e-5)
    for keep in (0.2, 0.5, 0.8):
        assert loaded.truncated(keep).ranks == lora.truncated(keep).ranks
        assert loaded.truncated(keep).ranks != random_lora().rotated().truncated(keep).ranks
    lora2.save(tmp_path / "b.safetensors", loaded.truncated(0.5))
    again = lora2.load(tmp_path / "b.safetensors").origin.learned.sensitivity
    assert again == loaded.origin.learned.sensitivity


def test_finish_divides_worth_by_energy_and_cuts_by_it():
    _, adapters = attached("adaptive")
    plain = lora2.finish(adapters)
    assert not plain.origin.learned.sensitivity, "no review has been"
    adapters.worths = {"wide": 4.0, "conv": 1e-3, "narrow": 0.0}
    lora = lora2.finish(adapters)
    energy = {name: float(layer.energy.sum()) for name, layer in plain.layers.items()}
    expected = {name: adapters.worths[name] / energy[name] for name in energy}
    most = max(expected.values())
    found = lora.origin.learned.sensitivity
    assert found == pytest.approx({name: value / most for name, value in expected.items()})
    assert max(found.values()) == 1
    assert lora.ranks == plain.ranks, "all of it is below the ceiling"
    _, small = attached("adaptive", target_rank=4)
    by_energy, small.worths = lora2.finish(small), adapters.worths
    assert lora2.finish(small).parameters <= small.ceiling
    assert lora2.finish(small).ranks["narrow"] == 0 < by_energy.ranks["narrow"]


@pytest.mark.parametrize("worth", [0.0, 2.0])
def test_finish_with_a_layer_that_was_given_up(worth: float, tmp_path: Path):
    """Also one that was still worth something at the last review."""
    _, adapters = attached("adaptive")
    adapters.components["narrow"].rank = 0
    adapters.worths = {"wide": 4.0, "conv": 1.0, "narrow": worth}
    lora = lora2.save(tmp_path / "a.safetensors", adapters)
    assert lora.ranks == {"wide": 9, "conv": 9, "narrow": 0}
    loaded = lora2.load(tmp_path / "a.safetensors")
    assert loaded.ranks == lora.ranks
    adapters.worths = {"wide": 4.0, "conv": 1.0, "narrow": 0.0}
    for keep in (0.2, 0.5, 0.8):
        assert loaded.truncated(keep).ranks == lora2.finish(adapters).truncated(keep).ranks


def test_the_hash_is_of_the_bytes_after_the_header(tmp_path: Path):
    path = tmp_path / "a.safetensors"
    lora2.save(path, random_lora())
    data = path.read_bytes()
    payload = data[8 + struct.unpack("<Q", data[:8])[0] :]
    digest = hashlib.sha256(payload).hexdigest()
    metadata = metadata_of(path)
    assert metadata["sshs_model_hash"] == digest
    assert metadata["modelspec.hash_sha256"] == f"0x{digest}"


def test_a_saved_adapter_is_in_the_singular_basis(tmp_path: Path):
    """Also one that did not come from training, else its prefixes would be no good."""
    lora2.save(tmp_path / "a.safetensors", random_lora(), dtype="fp32")
    loaded = lora2.load(tmp_path / "a.safetensors")
    assert loaded.singular
    for layer in loaded.layers.values():
        singular = torch.linalg.svdvals(layer.delta().flatten(1).double())[: layer.rank]
        torch.testing.assert_close(layer.energy.sqrt(), singular, rtol=1e-4, atol=1e-5)


@CHOICES
def test_rank_0_is_omitted_and_restored(form: str, tmp_path: Path):
    lora = random_lora()
    lora.layers[CONV].up.mul_(1e-3)
    lora = lora.rotated().within(250)
    assert lora.ranks[CONV] == 0 < lora.ranks[Q]
    lora2.save(tmp_path / "a.safetensors", lora, form=form, dtype="fp32")
    tensors = safetensors.torch.load_file(tmp_path / "a.safetensors")
    kept = sum(rank > 0 for rank in lora.ranks.values())
    assert len(tensors) == kept * (2 if form in ("peft", "comfy") else 3)
    loaded = lora2.load(tmp_path / "a.safetensors")
    assert loaded.ranks == lora.ranks and list(loaded.layers) == list(lora.layers)
    assert loaded.mean_rank == lora.mean_rank
    assert loaded.layers[CONV].delta().shape == (4, 8, 3, 3)
    assert not loaded.layers[CONV].delta().any()
    assert loaded.rotated().ranks == lora.ranks, "an empty layer can be used like any other"
    again = lora2.save(tmp_path / "b.safetensors", loaded, form=form, dtype="fp32")
    assert again.ranks == lora.ranks


def test_an_empty_adapter_is_not_saved(tmp_path: Path):
    with pytest.raises(ValueError, match="The adapter is empty"):
        lora2.save(tmp_path / "a.safetensors", random_lora().within(0))
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("max_mb", "form", "dtype"),
    each_once([0.003, 0.0035, 0.00421, 0.005, 0.006, 0.0071, 0.01, 0.05], FREE, PLAIN),
)
def test_max_mb_is_obeyed_to_the_byte(form: str, dtype: str, max_mb: float, tmp_path: Path):
    lora, path = random_lora().rotated(), tmp_path / "a.safetensors"
    plain = lora2.save(path, lora, form=form, dtype=dtype)
    whole = path.stat().st_size
    written = lora2.save(path, lora, form=form, dtype=dtype, max_mb=max_mb)
    size = path.stat().st_size
    assert size <= max_mb * 1e6
    assert lora2.load(path).ranks == written.ranks
    if whole <= max_mb * 1e6:
        assert written.ranks == plain.ranks, "nothing is cut without need"
    assert written.ranks == lora.within(written.parameters).ranks, "the least important go"


@pytest.mark.parametrize("form", ["kohya", "peft"])
def test_max_mb_is_used(form: str, tmp_path: Path):
    """Of a larger adapter with few strong layers the cut leaves no tenth of the room empty."""
    shapes = {f"block.{i}": (200, 200, 8 if i else 100, None) for i in range(6)}
    lora, path = random_lora(shapes).rotated(), tmp_path / "a.safetensors"
    whole = lora.megabytes()
    for share in (0.3, 0.5, 0.8):
        lora2.save(path, lora, form=form, max_mb=share * whole)
        used = path.stat().st_size / 1e6 / (share * whole)
        assert 0.9 < used <= 1, (share, used)


def test_max_mb_cuts_the_padding_of_a_uniform_file_not_all_of_the_adapter(tmp_path: Path):
    """One wide layer makes the padded file many times as large as its adapter."""
    shapes = {f"block.{i}": (200, 200, 2 if i else 100, None) for i in range(9)}
    path = tmp_path / "a.safetensors"
    cut = lora2.save(path, random_lora(shapes), form="uniform", max_mb=0.2)
    assert path.stat().st_size <= 200_000 and cut.parameters > 0


@pytest.mark.parametrize("max_mb", [1e-6, 0.0005, 0.001])
def test_a_max_mb_that_holds_no_position_is_refused(max_mb: float, tmp_path: Path):
    with pytest.raises(ValueError, match="Allow more MB"):
        lora2.save(tmp_path / "a.safetensors", random_lora(), max_mb=max_mb)


@pytest.mark.parametrize(
    "options",
    [{"form": "lycoris"}, {"dtype": "fp4"}, {"max_mb": -1}, {"max_mb": float("nan")}],
    ids=str,
)
def test_bad_choices_are_refused(options: dict, tmp_path: Path):
    with pytest.raises(ValueError, match="(choose|give a)"):
        lora2.save(tmp_path / "a.safetensors", random_lora(), **options)


def test_values_beyond_fp16_are_refused_not_written(tmp_path: Path):
    huge = random_lora({"a": (8, 8, 2, None)})
    huge.layers["a"].up.mul_(1e12)
    with pytest.raises(ValueError, match="Layer a has values that .* can't hold: save as fp32"):
        lora2.save(tmp_path / "a.safetensors", huge)
    lora2.save(tmp_path / "a.safetensors", huge, dtype="fp32")


def test_names_are_diffusers_for_all_layers_or_for_none(tmp_path: Path):
    paths = {name.removeprefix("diffusion_model."): f"down.{i}" for i, name in enumerate(SHAPES)}
    path = tmp_path / "a.safetensors"
    lora2.save(path, random_lora(), diffusers=paths)
    assert "lora_unet_down_2.alpha" in header_of(path)
    assert list(lora2.load(path).layers) == list(SHAPES), "the names of training come back"
    lora2.save(path, random_lora(), diffusers=dict(list(paths.items())[:-1]))
    assert f"{BASE}.alpha" in header_of(path)
    assert not any("down_2" in key for key in header_of(path))


def test_text_encoder_layers_keep_their_name_and_do_not_stop_diffusers_names(tmp_path: Path):
    te = "lora_te1_text_model_encoder_layers_0_mlp_fc1"
    lora = random_lora({te: (16, 16, 2, None), "out.2": (16, 16, 2, None)})
    lora2.save(tmp_path / "a.safetensors", lora, diffusers={"out.2": "conv_out"})
    assert {f"{te}.alpha", "lora_unet_conv_out.alpha"} < set(header_of(tmp_path / "a.safetensors"))
    path = tmp_path / "a.safetensors"
    lora2.save(path, lora, form="peft", diffusers={"out.2": "conv_out"})
    assert "text_encoder.text_model.encoder.layers.0.mlp.fc1.lora_A.weight" in header_of(path)
    assert list(lora2.load(path).layers) == [te, "out.2"], "the names of training come back"
    projection = random_lora({"lora_te2_text_projection": (16, 16, 2, None)})
    with pytest.raises(ValueError, match="Layer lora_te2_.* has no module path.*save as kohya"):
        lora2.save(path, projection, form="peft")
