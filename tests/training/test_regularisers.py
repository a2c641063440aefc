"""Dropout and the cap on updates: what they do to a step, and that off is off."""

import pytest
import torch

import lora2_core as lora2
from lora2_core.training.regularisers import Dropout, cap_norms
from lora2_core.training.run import Run
from tests.tiers import each_once
from tests.toys import Planted, trained

MODES = ["adaptive", "paper", "fixed"]


def adapters_of(mode: str) -> tuple[Planted, lora2.Adapters]:
    model = Planted([1, 4, 2], width=16)
    settings = lora2.RankSettings(mode=mode, target_rank=4, max_rank=16)
    return model, lora2.attach(model, "l", settings)


def course(mode: str, **options) -> tuple[list[float], list[torch.Tensor]]:
    model, adapters = adapters_of(mode)
    steps = lora2.train(adapters, model.loss, lora2.TrainSettings(10, 1e-2, **options))
    return [s.loss for s in steps], [up @ down for up, down in adapters.folded().values()]


@pytest.mark.parametrize("mode", MODES)
def test_off_is_off(mode: str):
    plain, off = course(mode), course(mode, rank_dropout=0.0, module_dropout=0.0)
    assert plain[0] == off[0] and all(map(torch.equal, plain[1], off[1]))


@pytest.mark.parametrize(
    ("mode", "options"),
    each_once(
        MODES, [{"rank_dropout": 0.3}, {"module_dropout": 0.3}, {"scale_weight_norms": 0.01}]
    ),
)
def test_on_is_another_run_that_can_be_repeated(mode: str, options: dict):
    plain, first, again = course(mode), course(mode, **options), course(mode, **options)
    assert first[0] == again[0] and all(map(torch.equal, first[1], again[1]))
    assert not all(map(torch.equal, plain[1], first[1]))


def test_the_shares_are_as_they_say():
    weights, generator = torch.ones(400, 50), torch.Generator().manual_seed(0)
    factors = Dropout(0.25, 0.0, generator)(weights)
    assert factors.unique().tolist() == pytest.approx([0, 1 / 0.75])
    assert float((factors == 0).float().mean()) == pytest.approx(0.25, abs=0.01)
    assert float(factors.mean()) == pytest.approx(1, abs=0.02), "the mean stays"
    factors = Dropout(0.0, 0.25, generator)(weights)
    rows = factors.amax(1)
    assert torch.equal(factors, rows[:, None].expand_as(factors))
    assert set(rows.tolist()) == {0.0, 1.0}
    assert float((rows == 0).float().mean()) == pytest.approx(0.25, abs=0.06)


@pytest.mark.parametrize("mode", MODES)
def test_a_pass_is_that_of_the_positions_that_are_left(mode: str):
    """Against the update made of them by hand; without dropout all come back."""
    model, adapters = adapters_of(mode)
    for _ in lora2.train(adapters, model.loss, lora2.TrainSettings(3, 1e-2)):
        pass
    x = torch.randn(4, 16)
    layer, component = model.l1, adapters.components["l1"]
    plain = layer(x)
    factors = torch.zeros_like(adapters.weights)
    factors[1, 0] = 2.0
    adapters.refresh(lambda weights: factors)
    up = component.lora_up[:, :1]
    down = 2 * adapters.weights[1, 0] * component.lora_down[:1]
    wanted = x @ (layer.weight + up @ down).T
    torch.testing.assert_close(layer(x), wanted, rtol=1e-4, atol=1e-5)
    adapters.refresh()
    torch.testing.assert_close(layer(x), plain)


@pytest.mark.parametrize("mode", MODES)
def test_no_update_is_above_the_cap_and_smaller_ones_stay(mode: str):
    adapters = trained(mode)
    before = [up @ down for up, down in adapters.folded().values()]
    norms = [float(delta.norm()) for delta in before]
    most = sorted(norms)[1]
    cap_norms(adapters, most)
    for delta, norm, (up, down) in zip(before, norms, adapters.folded().values(), strict=True):
        torch.testing.assert_close(up @ down, delta * min(1, most / norm), rtol=1e-3, atol=1e-6)


def test_a_run_goes_on_exactly():
    """The masks are drawn from the run's own generator."""
    from lora2_core.training.run_state import captured, restore

    whole = course("adaptive", rank_dropout=0.3, module_dropout=0.2)[0]
    model, adapters = adapters_of("adaptive")
    settings = lora2.TrainSettings(10, 1e-2, rank_dropout=0.3, module_dropout=0.2)
    run, losses = Run(adapters, settings), []
    for step in run.steps(model.loss):
        losses.append(step.loss)
        if step.index == 4:
            break
    state = captured(run)
    other, more = adapters_of("adaptive")
    rest = Run(more, run.settings)
    restore(rest, state)
    losses += [step.loss for step in rest.steps(other.loss)]
    assert losses == whole


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"rank_dropout": 1.0}, "rank_dropout is 1.0: give a number from 0 to 0.9"),
        ({"module_dropout": -0.1}, "module_dropout is -0.1"),
        ({"scale_weight_norms": float("nan")}, "scale_weight_norms is nan"),
    ],
)
def test_wrong_values_are_one_sentence(options: dict, sentence: str):
    with pytest.raises(ValueError, match=sentence):
        lora2.TrainSettings(**options)
