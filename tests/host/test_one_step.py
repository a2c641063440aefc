"""Models that make one picture of another in one step: Lotus (depth) and FlowRVS (masks)."""

import comfy.sample
import comfy.samplers
import pytest
import torch

from lora2_core import RankSettings, TrainSettings
from lora2_core.host.apply import apply_lora
from lora2_core.host.training.choices import Choices
from lora2_core.host.training.one_step import divided, sample
from lora2_core.host.training.run import train_on
from lora2_core.training.loss import LossSettings
from tests.models.build import build
from tests.models.data import data_for

NAMES = ["LotusD", "WAN21_FlowRVS"]


def run_of(steps: int = 2, **more) -> Choices:
    training = TrainSettings(steps, 1e-2)
    return Choices(RankSettings(mode="fixed", target_rank=4), training, **more)


def by_the_host(model, positive: list) -> torch.Tensor:
    """What a graph samples: Disable Noise, Set First Sigma, Basic Guider, the source as latent."""
    source, entry = divided(positive[0])
    sampling = model.get_model_object("model_sampling")
    sigmas = torch.tensor([float(sampling.sigma_max), 0.0])
    guider = comfy.samplers.CFGGuider(model)
    guider.set_conds([entry], [entry])
    guider.set_cfg(1.0)
    sampler = comfy.samplers.sampler_object("euler")
    return guider.sample(torch.zeros_like(source), source, sampler, sigmas, disable_pbar=True)


@pytest.mark.parametrize("name", NAMES)
def test_what_is_learned_is_what_the_host_samples(name):
    """After training on one pair, one step from the source is nearer to the picture."""
    model = build(name)
    latents, positive = data_for(name, model)
    target = latents[0]["samples"]
    out = train_on(model, latents, positive, run_of(60), lambda step: None)
    assert out.stopped_by is None
    trained, _ = apply_lora(model, None, out.lora, 1.0, 1.0)

    def distance(patcher) -> float:
        """In the model's own scale."""
        made = by_the_host(patcher, positive[0])
        made, wanted = map(model.model.process_latent_in, (made, target))
        return float((made - wanted).square().mean())

    assert distance(trained) < 0.8 * distance(model)
    assert torch.equal(sample(trained, positive[0]), by_the_host(trained, positive[0]))
    assert out.losses[0] == pytest.approx(distance(model), rel=1e-3)


@pytest.mark.parametrize("name", NAMES)
def test_a_picture_without_its_source_is_refused(name):
    model = build(name)
    latents, positive = data_for(name, model)
    cross, facts = positive[0][0]
    without = [[[cross, {k: v for k, v in facts.items() if k != "reference_latents"}]]]
    with pytest.raises(ValueError, match="give each picture its source"):
        train_on(model, latents, without, run_of(), lambda step: None)
    other = [[[cross, {**facts, "reference_latents": [facts["reference_latents"][0][..., :4]]}]]]
    with pytest.raises(ValueError, match="both have one size"):
        train_on(model, latents, other, run_of(), lambda step: None)


def test_a_weighting_by_noise_is_refused():
    model = build("LotusD")
    loss = LossSettings(weighting="min_snr")
    with pytest.raises(ValueError, match="one picture of another without noise: choose none"):
        train_on(model, *data_for("LotusD", model), run_of(loss=loss), lambda step: None)
