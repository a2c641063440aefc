"""Compression: the best allocation of its size, the error that was asked for, any kind of layer."""

import itertools
import math
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import lora2_core as lora2
from lora2_core import LoraLayer, RankedLora
from lora2_core.adapter.compress import compress, error_curve, parameters_for, relative_error
from lora2_core.adapter.origin import Learned, Origin, RunFacts
from tests.toys import SHAPES, foreign, metadata_of, random_lora

LORA = random_lora()
SMALL = {"a": (5, 7, 3, None), "b": (12, 4, 4, None), "c": (4, 18, 2, (3, 3)), "d": (3, 3, 3, None)}
BUDGETS = st.floats(LORA.megabytes() / 20, LORA.megabytes())


def dense_error(lora: RankedLora, cut: RankedLora) -> float:
    """The definition, on dense matrices."""
    apart = sum(
        float((layer.delta() - cut.layers[name].delta()).double().square().sum())
        for name, layer in lora.layers.items()
    )
    whole = sum(float(layer.delta().double().square().sum()) for layer in lora.layers.values())
    return math.sqrt(apart / whole)


def allocations(lora: RankedLora):
    """Every choice of ranks: (parameters, best relative error with these ranks), by dense SVD."""
    values = {
        n: torch.linalg.svdvals(x.delta().flatten(1).double()) for n, x in lora.layers.items()
    }
    total = sum(float(v.square().sum()) for v in values.values())
    for ranks in itertools.product(*(range(layer.rank + 1) for layer in lora.layers.values())):
        chosen = zip(lora.layers.items(), ranks, strict=True)
        pairs = [(layer.cost * r, float(values[n][r:].square().sum())) for (n, layer), r in chosen]
        yield sum(p for p, _ in pairs), math.sqrt(sum(lost for _, lost in pairs) / total)


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("share", [0.15, 0.3, 0.5, 0.8])
def test_no_allocation_of_the_same_size_is_nearer(seed: int, share: float):
    """Against all choices of ranks, with layers of different shapes and a convolution."""
    lora = random_lora(SMALL, seed)
    cut = compress(lora, budget_mb=share * lora.megabytes(), tolerance=0)
    best = min(error for used, error in allocations(lora) if used <= cut.parameters)
    assert dense_error(lora, cut) == pytest.approx(best, rel=1e-4, abs=1e-6)
    assert cut.megabytes() <= share * lora.megabytes()


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("tolerance", [0.02, 0.1, 0.3, 0.6])
def test_the_tolerance_is_met_with_hardly_a_parameter_too_many(seed: int, tolerance: float):
    """The optimum may use less, but by no whole position of the largest layer."""
    lora = random_lora(SMALL, seed)
    cut = compress(lora, tolerance=tolerance)
    assert dense_error(lora, cut) <= tolerance * (1 + 1e-5)
    fewest = min(used for used, error in allocations(lora) if error <= tolerance)
    assert cut.parameters - fewest < max(layer.cost for layer in lora.layers.values())


@given(tolerance=st.floats(0.001, 0.99))
@settings(max_examples=40)
def test_one_position_less_would_miss_the_tolerance(tolerance: float):
    whole = LORA.rotated()
    cut = compress(LORA, tolerance=tolerance)
    assert relative_error(whole, cut) <= tolerance
    assert relative_error(whole, whole.within(cut.parameters - 1)) > tolerance


@given(budget=BUDGETS, tolerance=st.floats(0.01, 0.9))
@settings(max_examples=40)
def test_of_both_the_one_that_asks_for_less_decides(budget: float, tolerance: float):
    by_size, by_error = (
        compress(LORA, budget_mb=budget, tolerance=0),
        compress(LORA, tolerance=tolerance),
    )
    both = compress(LORA, budget_mb=budget, tolerance=tolerance)
    assert both.megabytes() <= budget
    assert both.ranks == min(by_size, by_error, key=lambda lora: lora.parameters).ranks


@given(tolerances=st.tuples(st.floats(0.001, 0.99), st.floats(0.001, 0.99)))
@settings(max_examples=30)
def test_a_larger_tolerance_never_raises_a_rank(tolerances: tuple[float, float]):
    tight, loose = (compress(LORA, tolerance=t).ranks for t in sorted(tolerances))
    assert all(loose[name] <= tight[name] for name in SHAPES)


@pytest.mark.parametrize("options", [{"tolerance": 0.2}, {"budget_mb": 0.001, "tolerance": 0}])
def test_sensitivity_plays_no_part_and_is_not_handed_on(options: dict):
    """The error of the update is what was asked for, so a later cut goes by energy as well."""
    factors = dict(zip(SHAPES, (1e-6, 1.0, 0.0, 1e3), strict=True))
    known = replace(LORA, origin=Origin(Learned(sensitivity=factors)))
    cut = compress(known, **options)
    assert cut.ranks == compress(LORA, **options).ranks
    assert not cut.origin.learned.sensitivity
    assert known.origin.learned.sensitivity == factors, "what came in stays as it was"


def test_the_curve_is_what_within_keeps():
    whole = LORA.rotated()
    parameters, errors = error_curve(whole)
    assert parameters[0] == 0 and errors[0] == pytest.approx(1)
    assert parameters[-1] == whole.parameters and errors[-1] == 0
    for used, error in zip(parameters.tolist(), errors.tolist(), strict=True):
        cut = whole.within(used)
        assert cut.parameters == used
        assert relative_error(whole, cut) == pytest.approx(error, rel=1e-9, abs=1e-12)
    assert (errors.diff() < 0).all()


def test_the_error_is_that_of_the_dense_update():
    cut = compress(LORA, tolerance=0.2)
    said = cut.origin.run.settings["compressed"]
    assert said["error"] == pytest.approx(dense_error(LORA, cut), rel=1e-4)
    assert said == {"budget_mb": 0.0, "tolerance": 0.2, "error": said["error"]}


def test_rank_that_the_update_does_not_have_goes_without_being_asked():
    """A product of rank 2 stored at rank 6, and no tolerance but a wide budget."""
    narrow = LoraLayer(torch.randn(20, 2) @ torch.randn(2, 6), torch.randn(6, 30))
    lora = RankedLora({"a": narrow})
    cut = compress(lora, budget_mb=1, tolerance=0)
    assert cut.ranks == {"a": 2}
    torch.testing.assert_close(cut.layers["a"].delta(), narrow.delta(), rtol=1e-4, atol=1e-4)


def test_the_dense_update_is_never_formed(monkeypatch):
    """Nothing as large as out x fan_in is made, nor is delta() called."""
    rows, fan_in, rank = 2000, 3000, 4
    lora = random_lora({"a": (rows, fan_in, rank, None)})
    monkeypatch.setattr(LoraLayer, "delta", None)

    class Largest(torch.overrides.TorchFunctionMode):
        size = 0

        def __torch_function__(self, function, types, args=(), kwargs=None):
            out = function(*args, **(kwargs or {}))
            for made in out if isinstance(out, tuple) else (out,):
                if isinstance(made, torch.Tensor):
                    self.size = max(self.size, made.numel())
            return out

    with Largest() as largest:
        compress(lora, tolerance=0.3)
    assert rank * fan_in <= largest.size <= 2 * rank * fan_in


@pytest.mark.parametrize("alpha", [None, 1.0, 2.5, -4.0])
@pytest.mark.parametrize("form", ["kohya", "conv", "peft", "text encoder"])
def test_files_of_other_programs(form: str, alpha: float | None, tmp_path: Path):
    """Alpha is folded in, and what comes out is written at scale 1 under the same names."""
    up, down = torch.randn(12, 6), torch.randn(6, 18)
    up *= torch.logspace(0, -3, 6)
    bases = {
        "kohya": "lora_unet_down_blocks_1_attentions_0_proj_in",
        "conv": "lora_unet_down_blocks_0_resnets_0_conv1",
        "peft": "unet.down_blocks.1.attentions.0.proj_in",
        "text encoder": "lora_te1_text_model_encoder_layers_0_mlp_fc1",
    }
    base, conv = bases[form], form == "conv"
    names = ("lora_B", "lora_A") if form == "peft" else ("lora_up", "lora_down")
    tensors = {
        f"{base}.{names[0]}.weight": up[:, :, None, None] if conv else up,
        f"{base}.{names[1]}.weight": down.view(6, 2, 3, 3) if conv else down,
    }
    if alpha is not None:
        tensors[f"{base}.alpha"] = torch.tensor(alpha)
    lora = lora2.load(foreign(tmp_path / "f.safetensors", tensors, {"ss_base_model_version": "x"}))
    cut = compress(lora, tolerance=0.1)
    assert 0 < cut.ranks[base] < 6 and cut.layers[base].kernel == ((3, 3) if conv else None)
    expected = (up @ down) * (1 if alpha is None else alpha / 6)
    assert dense_error(lora, cut) <= 0.1
    near = (cut.layers[base].delta().flatten(1) - expected).norm() / expected.norm()
    assert float(near) <= 0.1 + 1e-5
    saved = tmp_path / "out.safetensors"
    lora2.save(saved, cut, dtype="fp32", form="peft" if form == "peft" else "kohya")
    again = lora2.load(saved)
    assert again.ranks == cut.ranks
    torch.testing.assert_close(again.layers[base].delta(), cut.layers[base].delta())
    assert metadata_of(saved)["ss_base_model_version"] == "x"
    assert again.origin.run.settings["compressed"]["tolerance"] == 0.1


def test_an_adapter_of_ours_keeps_what_it_knows(tmp_path: Path):
    """Also the layers of rank 0, and half-precision files are rotated anew."""
    lora = random_lora().rotated()
    lora = replace(lora, origin=Origin(run=RunFacts(history={"loss": [1.0, 0.5]})))
    lora2.save(tmp_path / "a.safetensors", lora.within(400))
    loaded = lora2.load(tmp_path / "a.safetensors")
    cut = compress(loaded, tolerance=0.3)
    assert list(cut.layers) == list(SHAPES) and cut.origin.run.history == {"loss": [1.0, 0.5]}
    assert dense_error(loaded, cut) <= 0.3 * (1 + 1e-5)
    assert cut.origin.learned.ranks == loaded.origin.learned.ranks
    assert "compressed" not in loaded.origin.run.settings, "what came in stays as it was"


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"tolerance": 0}, "budget_mb and tolerance are both 0: give a size in MB"),
        ({"tolerance": -0.1}, "tolerance is -0.1: give a number from 0 to 0.999"),
        ({"tolerance": 1}, "tolerance is 1: give a number"),
        ({"tolerance": float("nan")}, "tolerance is nan"),
        ({"tolerance": "0.1"}, "tolerance is '0.1'"),
        ({"budget_mb": -1}, "budget_mb is -1: give a number from 0"),
        ({"budget_mb": float("inf")}, "budget_mb is inf"),
        ({"budget_mb": 1e-5}, "budget_mb is 1e-05, too small for one rank: give more MB"),
    ],
    ids=str,
)
def test_bad_input_is_one_sentence(options: dict, sentence: str):
    with pytest.raises(ValueError) as caught:
        compress(LORA, **options)
    assert str(caught.value).startswith(sentence)
    assert str(caught.value).endswith(".") and "\n" not in str(caught.value)


def test_a_lora_that_changes_nothing_is_refused():
    zero = RankedLora({"a": LoraLayer(torch.zeros(4, 2), torch.ones(2, 4))})
    with pytest.raises(ValueError, match="The LoRA's 1 layers are all zero.*choose another file"):
        compress(zero)


def test_a_tolerance_is_a_place_on_the_curve():
    whole = LORA.rotated()
    assert parameters_for(whole, 1.0) == 0 and parameters_for(whole, 0.0) == whole.parameters
