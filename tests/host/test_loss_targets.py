"""The loss of every kind of prediction that the host knows is the error of the model's own target:
nothing for a perfect prediction, and the square of what is added to it.
"""

from types import SimpleNamespace

import comfy.latent_formats
import comfy.model_base
import comfy.model_sampling
import pytest
import torch
from comfy.model_base import ModelType

from lora2_core.host.training.objective import denoising_loss, prediction_scale
from lora2_core.host.training.timesteps import positions, sigma_at
from lora2_core.training.loss import LossSettings

PAIRS = [kind for kind in ModelType if kind.name.startswith("IMG_TO_IMG")]
KINDS = [kind for kind in ModelType if kind not in PAIRS]
SETTINGS = {
    "EDM": {"sigma_data": 0.5, "sigma_min": 0.002, "sigma_max": 80.0},
    "FLOW_COSMOS": {"sigma_data": 1.0, "sigma_min": 0.002, "sigma_max": 80.0},
    "V_PREDICTION_DDPM": {"beta_schedule": "linear", "zsnr": True},
    "FLUX": {"shift": 1.15}, "FLOW": {"shift": 3.0},
}  # fmt: skip


def sampling_of(kind: ModelType):
    config = SimpleNamespace(sampling_settings=SETTINGS.get(kind.name, {}))
    return comfy.model_base.model_sampling(config, kind)


def drawn_levels(sampling, count: int = 4) -> torch.Tensor:
    drawn = torch.linspace(0.1, 0.9, count)
    return sigma_at(sampling, positions(sampling, LossSettings(), drawn)).float()


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.name)
@pytest.mark.parametrize("dimensions", [3, 4, 5])
def test_the_error_is_that_of_the_models_own_target(kind, dimensions):
    """The target is what the host turns into the clean latent; an error d in it costs mean(d²)."""
    generator = torch.Generator().manual_seed(0)
    sampling, shape = sampling_of(kind), (4, 3, 5, 6, 7)[:dimensions]
    x0, noise, wrong = (torch.randn(shape, generator=generator) for _ in range(3))
    sigma = drawn_levels(sampling)

    def predicting(error: torch.Tensor | float):
        def apply_model(x, sigma, **_):
            nothing = sampling.calculate_denoised(sigma, torch.zeros_like(x), x)
            unit = sampling.calculate_denoised(sigma, torch.ones_like(x), torch.zeros_like(x))
            return sampling.calculate_denoised(sigma, (x0 - nothing) / unit + error, x)

        return SimpleNamespace(
            model_sampling=sampling, apply_model=apply_model, diffusion_model=torch.nn.Identity()
        )

    def loss(error: torch.Tensor | float) -> float:
        return float(denoising_loss(predicting(error), x0, noise, sigma, {}, {}))

    assert loss(0.0) < 1e-4
    assert loss(wrong) == pytest.approx(float(wrong.square().mean()), rel=1e-3)
    assert float(prediction_scale(sampling, sigma, x0).min()) > 0


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.name)
def test_levels_cover_the_models_own_range(kind):
    """Every draw has a level of its own, within what the model was trained on: from a tenth of the
    way up its schedule to nine tenths.
    """
    sampling = sampling_of(kind)
    sigma = drawn_levels(sampling, 9).sort().values
    assert torch.isfinite(sigma).all() and bool((sigma[1:] > sigma[:-1]).all())
    low, high = float(sampling.sigma_min), float(sampling.sigma_max)
    assert low <= float(sigma[0]) < float(sigma[-1]) <= high
    ends = sorted(float(sampling.percent_to_sigma(p)) for p in (0.1, 0.9))
    assert sigma[[0, -1]].tolist() == pytest.approx(ends, rel=0.05)
