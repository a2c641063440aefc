"""The controls that lycoris-lora trains, and ranks by a spectrum."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from lora2_core import RankedLora
from lora2_core.host.apply import apply_lora
from lora2_core.host.playground import load_playground
from lora2_core.layers.targets import TargetSettings
from lora2_core.playground import asset
from lora2_core.playground.subjects import examples
from tests.benchmarks.held_out import encode, held_out_loss
from tests.benchmarks.ranks import other_kinds, spectra
from tests.benchmarks.ranks.tuning import WIDE
from tests.hosting.provision import cache_folder


@pytest.fixture
def lycoris(monkeypatch: pytest.MonkeyPatch) -> None:
    """lycoris-lora, which `nox -s bench-ranks` and `nox -s tests -- PATH` bring."""
    monkeypatch.syspath_prepend(str(cache_folder() / "clients"))


def layers() -> dict[str, nn.Module]:
    torch.manual_seed(0)
    return {"a": nn.Linear(24, 12), "b": nn.Conv2d(6, 12, 3, padding=1)}


COST = 24 + 12 + 6 * 9 + 12  # of one rank in both


@pytest.mark.parametrize("kind", ["lokr", "oft"])
@pytest.mark.parametrize("rank", [0.6, 1, 2])
def test_the_setting_is_the_largest_that_fits(lycoris, kind: str, rank: float):
    found = other_kinds.setting_for(kind, layers(), rank * COST)
    size = other_kinds.parameters_of(kind, layers(), found)
    sizes = [other_kinds.parameters_of(kind, layers(), s) for s in other_kinds.settings_of(kind)]
    assert size == max(n for n in sizes if n <= rank * COST)


def test_a_size_below_all_settings_is_refused(lycoris):
    with pytest.raises(ValueError, match="oft at 20 parameters: no setting is that small"):
        other_kinds.setting_for("oft", layers(), 20)


@pytest.mark.parametrize("kind", ["lokr", "oft"])
def test_a_module_changes_nothing_at_first_and_leaves_the_layer_as_it_was(lycoris, kind: str):
    """And begins the same for one seed, whatever else draws random numbers."""
    both, x = layers(), torch.randn(2, 24)
    before, state = both["a"](x), dict(vars(both["a"]))
    setting = other_kinds.setting_for(kind, both, 2 * COST)
    firsts = []
    for _ in range(2):
        torch.rand(3)
        with other_kinds.attached(kind, both, setting, seed=5) as modules:
            assert torch.equal(both["a"](x), before)
            firsts.append([p.detach().clone() for p in modules["b"].parameters()])
            with torch.no_grad():
                for parameter in modules["a"].parameters():
                    parameter += torch.rand(parameter.shape)
            assert not torch.allclose(both["a"](x), before)
    assert all(torch.equal(a, b) for a, b in zip(*firsts, strict=True))
    assert vars(both["a"]) == state and torch.equal(both["a"](x), before)


def test_patches_are_what_the_weight_is_multiplied_with():
    both = layers()
    for layer, x in ((both["a"], torch.randn(2, 5, 24)), (both["b"], torch.randn(2, 6, 4, 4))):
        out = layer(x)
        found = spectra.patches(layer, x) @ layer.weight.flatten(1).T + layer.bias
        wanted = out.movedim(1, -1) if out.ndim == 4 else out
        torch.testing.assert_close(found.reshape(wanted.shape), wanted)


def test_ranks_by_a_spectrum_take_the_largest_shares_that_fit():
    """Of shares 0.9 and 0.1, and 0.6 and 0.4: in this order, or per parameter."""
    both = {"a": nn.Linear(10, 10), "b": nn.Linear(100, 100)}
    spectrum = [torch.tensor([0.6, 0.4]), torch.tensor([9.0, 1.0])]
    found = spectra.ranks_by(spectrum, both, 220, per_parameter=False)
    assert found == {"a": 1, "b": 1}
    assert spectra.ranks_by(spectrum, both, 200, per_parameter=False) == {"a": 0, "b": 1}
    assert spectra.ranks_by(spectrum, both, 200, per_parameter=True) == {"a": 2, "b": 0}


@pytest.mark.parametrize("kind", ["lokr", "oft"])
def test_what_is_measured_is_what_was_trained(lycoris, kind: str):
    """The loss with lycoris-lora's modules beside the layers, and with the file in the host."""
    model, clip, vae = load_playground(asset.load())
    images, captions = examples("owl", 2)
    pictures = encode(clip, vae, images, captions)
    chosen = TargetSettings(WIDE).chosen(model.model)
    setting = other_kinds.setting_for(kind, chosen, 45352)
    with torch.inference_mode(False), other_kinds.attached(kind, chosen, setting, 0) as modules:
        generator = torch.Generator().manual_seed(0)
        with torch.no_grad():
            for module in modules.values():
                for p in module.parameters():
                    p += 0.1 * torch.randn(p.shape, generator=generator)
        beside = held_out_loss(model, pictures)
        lora = RankedLora({}, others={n: other_kinds.change_of(m) for n, m in modules.items()})
    plain = held_out_loss(model, pictures)
    assert lora.megabytes() <= 2 * 45352 / 1e6
    found = held_out_loss(apply_lora(model, None, lora, 1.0, 1.0)[0], pictures)
    assert found == pytest.approx(beside, rel=1e-3) and abs(found / plain - 1) > 0.05
