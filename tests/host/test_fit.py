"""Captions of another model are refused before the first step, by every kind of model."""

import comfy.model_base
import pytest
import torch

from lora2_core import RankSettings, TrainSettings
from lora2_core.host.training import setup
from lora2_core.host.training.choices import Choices
from lora2_core.host.training.run import train_on
from tests.models import build as models
from tests.models import data
from tests.tiers import each_once, fast

from .flow_models import FAMILIES, build, pictures
from .test_real_shapes import UNETS, patcher

NAMES = [*FAMILIES, "SDXL", "SD1.5", "SD2"]
POOLED = [n for n in NAMES if n == "SDXL" or (n in FAMILIES and FAMILIES[n].pooled)]


def made(name: str) -> tuple:
    """The model, two pictures, and a caption that suits it."""
    if name in FAMILIES:
        latents, ((entry,),) = pictures(name)
        return build(name), latents, entry
    model = patcher(*UNETS[name], torch.float32, comfy.model_base.ModelType.EPS)
    facts = {"pooled_output": torch.zeros(1, 32)} if name == "SDXL" else {}
    return model, [{"samples": torch.zeros(2, 4, 16, 16)}], [torch.zeros(1, 77, 64), facts]


def refused(name: str, monkeypatch, change) -> str:
    """What is said where the second of two captions is changed."""

    def begun(*_, **__):
        raise AssertionError("training began")

    monkeypatch.setattr(setup, "Run", begun)
    model, latents, (cross, facts) = made(name)
    positive = [[[cross, facts]], [change(cross, facts)]]
    run = Choices(RankSettings(target_rank=2, max_rank=4), TrainSettings(2, 1e-3))
    with pytest.raises(ValueError) as error:
        train_on(model, latents, positive, run, lambda step: None)
    return str(error.value)


@pytest.mark.parametrize(("name", "width"), each_once(NAMES, [1, 2048]))
def test_captions_of_another_width(name, width, monkeypatch):
    said = refused(name, monkeypatch, lambda cross, facts: [torch.zeros(1, 6, width), facts])
    assert "doesn't suit this model" in said and f"caption 2 is {width} wide" in said


@pytest.mark.parametrize("name", POOLED)
def test_pooled_vectors_of_another_width(name, monkeypatch):
    other = {"pooled_output": torch.zeros(1, 7)}
    said = refused(name, monkeypatch, lambda cross, facts: [cross, other])
    assert "doesn't suit this model" in said and "caption 2" in said and "pooled output 7" in said


def test_no_pooled_vector_where_the_model_needs_one(monkeypatch):
    said = refused("SDXL", monkeypatch, lambda cross, facts: [cross, {}])
    assert "doesn't suit this model" in said and "caption 2" in said


def test_pictures_that_are_too_small_for_the_model():
    """PixArt divides by how many times 64 values a side has."""
    model, facts = models.build("PixArtAlpha"), {"attention_mask": torch.ones(1, 6)}
    caption = torch.zeros(1, 6, data.width_of("PixArtAlpha"))
    run = Choices(RankSettings(target_rank=2, max_rank=4), TrainSettings(1, 1e-3))
    latents = [{"samples": torch.zeros(1, 4, side, 32)} for side in (64, 16)]
    with pytest.raises(ValueError, match="latent of 16 x 32: use larger pictures"):
        train_on(model, latents, [[[caption, facts]]], run, lambda step: None)


@pytest.mark.parametrize("name", fast(NAMES, "SD3", "SDXL", "SD1.5"))
def test_what_suits_is_trained(name):
    model, latents, entry = made(name)
    run = Choices(RankSettings(target_rank=2, max_rank=4), TrainSettings(1, 1e-3))
    assert train_on(model, latents, [[entry]], run, lambda step: None).stopped_by is None
