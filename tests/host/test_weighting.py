"""Weighted losses of the real network against diffusers' definitions, written out."""

import comfy.model_base
import comfy.model_sampling
import pytest
import torch
from comfy.model_base import ModelType

from lora2_core.host.playground import build_model, latent_format
from lora2_core.host.training.loan import on_loan
from lora2_core.host.training.objective import (
    check_loss,
    denoising_loss,
    make_loss,
    snr_weights,
)
from lora2_core.host.training.timesteps import positions, sigma_at
from lora2_core.training.loss import LossSettings
from tests.host.examples import examples_of

KINDS = [ModelType.EPS, ModelType.V_PREDICTION]
FLOWS = [ModelType.FLOW, ModelType.FLUX]


def sampling_of(kind: ModelType):
    with torch.inference_mode(False):
        model = build_model(latent_format(1.0, [[0.0] * 3] * 9))
        return comfy.model_base.model_sampling(model.model_config, kind)


def reference_weights(kind: ModelType, sigma: torch.Tensor, settings: LossSettings):
    """compute_snr of diffusers' training scripts and what they make of it; debiased as in
    arXiv 2310.08442, whose error of the noise is SNR / (SNR + 1) times that of v.
    """
    alphas_cumprod = 1 / (1 + sigma**2)
    alpha, noise = alphas_cumprod**0.5, (1.0 - alphas_cumprod) ** 0.5
    snr = (alpha / noise) ** 2
    if settings.weighting == "min_snr":
        capped = torch.stack([snr, settings.gamma * torch.ones_like(snr)], dim=1).min(dim=1)[0]
        return capped / snr if kind == ModelType.EPS else capped / (snr + 1)
    if settings.weighting == "debiased":
        return 1 / snr.sqrt() * (1 if kind == ModelType.EPS else snr / (snr + 1))
    return torch.ones_like(snr)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    "settings",
    [
        LossSettings(), LossSettings(weighting="min_snr"), LossSettings(huber=0.3),
        LossSettings(weighting="min_snr", gamma=1.0), LossSettings(weighting="debiased"),
        LossSettings(weighting="min_snr", huber=0.5),
    ],
    ids=lambda s: f"{s.weighting} {s.gamma:g} {s.huber:g}",
)  # fmt: skip
def test_the_loss_is_that_of_the_training_scripts(playground, kind, settings):
    """Naively: the network's own output, the target, the error of each picture, times its
    weight.
    """
    generator = torch.Generator().manual_seed(0)
    latents, noise = torch.randn(2, 4, 8, 8, 8, generator=generator)
    conditions = {
        "c_crossattn": torch.randn(4, 16, 128, generator=generator),
        "y": torch.randn(4, 320, generator=generator),
    }
    sigma = torch.tensor([0.05, 0.4, 1.0, 9.0])
    with on_loan(playground.model) as inner, torch.no_grad():
        model = build_model(latent_format(1.0, [[0.0] * 3] * 9))
        model.model_sampling = comfy.model_base.model_sampling(model.model_config, kind)
        model.diffusion_model.load_state_dict(inner.diffusion_model.state_dict())
        found = denoising_loss(model, latents, noise, sigma, conditions, {}, settings)
        column = sigma.view(-1, 1, 1, 1)
        root = (1 + column**2).sqrt()
        target = noise if kind == ModelType.EPS else (noise - column * latents) / root
        out = model.diffusion_model(
            (latents + column * noise) / root,
            model.model_sampling.timestep(sigma).float(),
            context=conditions["c_crossattn"],
            y=conditions["y"],
        )
    error = (out - target).abs()
    values = error**2
    if settings.huber:
        line = 2 * settings.huber * error - settings.huber**2
        values = torch.where(error <= settings.huber, values, line)
    expected = (values.mean(dim=(1, 2, 3)) * reference_weights(kind, sigma, settings)).mean()
    assert float(found) == pytest.approx(float(expected), rel=1e-3)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("weighting", ["min_snr", "debiased"])
def test_weights_of_every_timestep(kind, weighting: str):
    sampling, settings = sampling_of(kind), LossSettings(weighting=weighting)
    sigma = sigma_at(sampling, torch.arange(1000) / 1000 + 1e-5)
    found = snr_weights(sampling, settings, sigma, torch.zeros(1000, 4, 2, 2))
    assert found.shape == (1000, 1, 1, 1)
    expected = reference_weights(kind, sigma.double(), settings).float()
    torch.testing.assert_close(found.flatten(), expected, rtol=1e-4, atol=1e-7)


@pytest.mark.parametrize("kind", FLOWS)
@pytest.mark.parametrize("weighting", ["min_snr", "debiased"])
def test_flow_models_refuse_what_has_no_meaning_there(kind, weighting: str):
    with pytest.raises(ValueError) as caught:
        check_loss(LossSettings(weighting=weighting), sampling_of(kind))
    assert str(caught.value) == (
        f"weighting is '{weighting}', but this model is neither of eps nor of v prediction: choose "
        "none (for flow models, sampling logit_normal has that part)."
    )
    rest = {"huber": 0.1, "noise_offset": 0.1, "sampling": "logit_normal", "max_timestep": 0.5}
    check_loss(LossSettings(**rest), sampling_of(kind))


@pytest.mark.parametrize("kind", KINDS + FLOWS)
@pytest.mark.parametrize("sampling", ["uniform", "logit_normal", "low_noise", "high_noise"])
def test_times_are_noise_for_every_kind_of_model(kind, sampling: str):
    """0 is the clean picture and 1 pure noise, whichever way the model counts."""
    model = sampling_of(kind)
    drawn = torch.rand(300, generator=torch.Generator().manual_seed(0))

    def levels(**chosen) -> torch.Tensor:
        return sigma_at(model, positions(model, LossSettings(**chosen), drawn))

    plain = levels()
    assert torch.equal(plain, sigma_at(model, drawn)), "as ever"
    found = levels(sampling=sampling)
    assert torch.isfinite(found).all() and (found > 0).all()
    if sampling.endswith("noise"):
        assert (found.mean() > plain.mean()) == (sampling == "high_noise")
    low = levels(sampling=sampling, max_timestep=0.3)
    high = levels(sampling=sampling, min_timestep=0.7)
    edge = [float(sigma_at(model, positions(model, LossSettings(), at))) for at in ends(model)]
    assert low.max() <= edge[0] * 1.01 and high.min() >= edge[1] * 0.99


def ends(model) -> list[torch.Tensor]:
    """Numbers drawn that stand for the times 0.3 and 0.7."""
    times = torch.tensor([[0.3], [0.7]])
    return list(times if hasattr(model, "num_timesteps") else 1 - times)


def test_a_batch_is_drawn_as_ever_and_offset_on_top(playground, monkeypatch):
    """The same pictures, noise and timesteps with and without options; the offset comes last."""
    from lora2_core.host.training import objective

    seen = []

    def record(inner, latents, noise, sigma, conditions, options, settings, weights):
        seen.append((latents, noise, sigma))
        return latents.sum()

    monkeypatch.setattr(objective, "denoising_loss", record)
    with on_loan(playground.model) as inner:
        items = examples_of(playground.model, inner, playground.latents, playground.positive)
        for settings in (LossSettings(), LossSettings(noise_offset=0.1, max_timestep=0.5)):
            make_loss(inner, items, 2, {}, settings)(torch.Generator().manual_seed(5))
    (latents, noise, sigma), (again, offset, lower) = seen
    assert torch.equal(latents, again)
    shift = (offset - noise).flatten(2)
    torch.testing.assert_close(shift, shift[..., :1].expand_as(shift), rtol=0, atol=1e-6)
    assert shift.any() and (lower < sigma).all()
