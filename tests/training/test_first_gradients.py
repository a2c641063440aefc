"""A layer that gets no gradient is named after the first steps; a run in which none does is refused
before anything is lost.
"""

import logging

import pytest
import torch
from torch import nn

import lora2_core as lora2
from lora2_core.layers.joined import frozen_of
from lora2_core.training.first_gradients import NAMED, STEPS, FirstGradients

KINDS = {"joined": frozen_of, "hooked": lambda module: None}


class Branches(nn.Module):
    """One layer that is used, one that is not run, one behind what has no graph, one times 0."""

    def __init__(self):
        super().__init__()
        for name in ("used", "not_run", "cut_off", "times_0"):
            self.add_module(name, nn.Linear(6, 6).requires_grad_(False))
        self.later = {}

    def loss(self, generator: torch.Generator) -> torch.Tensor:
        x = torch.randn(4, 6, generator=generator)
        self.step = getattr(self, "step", 0) + 1
        y = self.used(x) + self.cut_off(x).detach() + 0 * self.times_0(x)
        if self.later.get("not_run") == self.step:
            y = y + self.not_run(x)
        return y.square().mean()


def steps_of(model: Branches, layers: str, mode: str = "fixed", steps: int = 4, kind="joined"):
    settings = lora2.RankSettings(mode=mode, target_rank=2, max_rank=4)
    adapters = lora2.attach(model, layers, settings, frozen=KINDS[kind])
    return list(lora2.train(adapters, model.loss, lora2.TrainSettings(steps, 1e-2)))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("mode", ["fixed", "adaptive", "paper"])
def test_layers_without_one_are_named_once(mode, kind, caplog):
    with caplog.at_level(logging.WARNING, "lora2"):
        steps = steps_of(Branches(), ".*", mode, kind=kind)
    wanted = [(), ("not_run", "cut_off", "times_0"), (), ()]
    assert [step.without_gradient for step in steps] == wanted
    (record,) = caplog.records
    assert "3 of 4 layers get no gradient" in record.getMessage()
    assert "not_run, cut_off, times_0." in record.getMessage()


def test_where_all_have_one_nothing_is_said(caplog):
    with caplog.at_level(logging.WARNING, "lora2"):
        steps = steps_of(Branches(), "used")
    assert not caplog.records and all(step.without_gradient == () for step in steps)


def test_a_layer_that_rests_in_the_first_step_only_is_not_named():
    model = Branches()
    model.later["not_run"] = 2
    assert all(step.without_gradient == () for step in steps_of(model, "used|not_run"))


def test_a_run_of_one_step_says_it_too():
    (step,) = steps_of(Branches(), "used|not_run", steps=1)
    assert step.without_gradient == ("not_run",)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("layers", ["times_0", "cut_off", "cut_off|not_run|times_0"])
def test_a_run_in_which_no_layer_has_one_is_refused_in_the_first_step(layers, kind):
    model = Branches()
    with pytest.raises(ValueError, match="No layer gets a gradient"):
        steps_of(model, layers, kind=kind)
    assert model.step == 1


def test_a_loss_of_zero_is_no_fault_of_the_model():
    """As where the masks of a batch hide all of it."""

    class Masked(Branches):
        def loss(self, generator):
            return super().loss(generator) * (self.step > 1)

    model = Masked()
    model.step = 0
    assert all(step.without_gradient == () for step in steps_of(model, "used"))


def test_the_device_is_waited_for_in_the_first_steps_only(monkeypatch):
    looks, norm = [], torch._foreach_norm
    ours = FirstGradients.look

    def look(self, *args, **named):
        with monkeypatch.context() as patch:
            patch.setattr(torch, "_foreach_norm", lambda t: looks.append(len(t)) or norm(t))
            return ours(self, *args, **named)

    monkeypatch.setattr(FirstGradients, "look", look)
    steps_of(Branches(), "used|times_0", steps=6)
    assert looks == [2, 1] and STEPS == 2


def test_many_names_are_counted(caplog):
    model = nn.ModuleDict({f"l{i}": nn.Linear(3, 3) for i in range(NAMED + 5)})
    adapters = lora2.attach(model, "l", lora2.RankSettings(mode="fixed", target_rank=1))
    x = torch.randn(2, 3)
    with caplog.at_level(logging.WARNING, "lora2"):
        list(lora2.train(adapters, lambda g: model["l0"](x).square().mean()))[:0]
    assert "and 4 more." in caplog.records[0].getMessage()
