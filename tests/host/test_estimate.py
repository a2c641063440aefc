"""LoRA² Layers says what a run would need, before there are pictures."""

import pytest
import torch

from lora2_core.host.training import estimate
from lora2_core.host.training.choices import Choices
from lora2_core.host.training.estimate import assumed, estimated, unloaded
from lora2_core.host.training.examples import make_examples
from lora2_core.host.training.loan import lent
from lora2_core.host.training.pictures import Pictures
from lora2_core.host.training.room import Task, wanted_memory
from tests.models.build import build
from tests.models.data import width_of
from tests.tiers import fast

GB = 1_000_000_000
NAMES = ["SDXL", "Flux", "SD15", "LTXV", "WAN21_T2V", "QwenImage", "ZImage", "Omnigen2"]


@pytest.fixture
def a_card(monkeypatch):
    monkeypatch.setattr(estimate, "PLANNED", ("cpu",))
    monkeypatch.setattr(estimate, "available_memory", lambda device: 11 * GB)


@pytest.mark.parametrize("name", fast(NAMES, "SDXL", "QwenImage"))
def test_the_model_is_asked_what_captions_it_takes(name, a_card):
    model = build(name)
    before = {k: (v.data_ptr(), v.dtype) for k, v in model.model.state_dict().items()}
    with torch.inference_mode():
        with unloaded(model) as loan:
            example = assumed(loan.inner, 128)
        made, remedies = estimated(model, Choices.of({"target_rank": 4}), 128)
    assert example.conditions["c_crossattn"].cond.shape[-1] == width_of(name)
    assert made.fits and made.need.weights == model.model_size() and not remedies
    assert before == {k: (v.data_ptr(), v.dtype) for k, v in model.model.state_dict().items()}
    assert not any(m._forward_pre_hooks or "forward" in vars(m) for m in model.model.modules())


def test_a_size_that_a_model_cant_compute_has_no_estimate(a_card):
    with torch.inference_mode():
        assert estimated(build("PixArtAlpha"), Choices.of({"target_rank": 4}), 128) is None


def test_it_is_what_the_run_plans(a_card):
    """For the pictures and captions that are assumed."""
    model, choices = build("Flux"), Choices.of({"target_rank": 4})
    with torch.inference_mode():
        made, _ = estimated(model, choices, 128)
        caption = torch.zeros(1, estimate.TOKENS_OF_T5, width_of("Flux"))
        facts = {"pooled_output": torch.zeros(1, 20)}
        data = Pictures.of(model, [{"samples": torch.zeros(1, 16, 16, 16)}], [[[caption, facts]]])
        with lent(model) as loan:
            examples = make_examples(model, loan.inner, data)
            layers = choices.target.chosen(loan.inner)
            planned = wanted_memory(Task(loan, layers, None, examples, [], {}, choices))
    assert planned.need("off") == made.need


def test_the_layers_node_says_it(nodes, playground, a_card, monkeypatch):
    execute = nodes["LoRA2Layers"].execute
    (text,) = execute(playground.model, resolution=64, batch_size=2).ui["text"]
    assert " of 11.0 GB at 64 x 64, batch_size 2." in text.splitlines()[-1]
    monkeypatch.setattr(estimate, "available_memory", lambda device: 100_000_000)
    (text,) = execute(playground.model, resolution=64).ui["text"]
    line = text.splitlines()[-1]
    assert "of 0.1 GB" in line and "batch_size" in line and line.count(" GB)") == 3
    monkeypatch.setattr(estimate, "PLANNED", ())
    (text,) = execute(playground.model, resolution=64).ui["text"]
    assert "a run needs" not in text
