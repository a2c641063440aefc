"""The loss is the error of the model's own prediction, whatever that is."""

import comfy.model_base
import pytest
import torch
from comfy.model_base import ModelType

from lora2_core.host.playground import build_model, latent_format
from lora2_core.host.training.cross_attention import recorded_attention
from lora2_core.host.training.loan import on_loan
from lora2_core.host.training.objective import denoising_loss
from lora2_core.host.training.timesteps import sigma_at
from lora2_core.training.attention import EntropyRecord, attention_entropy


@pytest.fixture(scope="module")
def inner(playground):
    """The playground's network, outside inference mode."""
    with on_loan(playground.model) as model:
        yield model


def batch() -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, dict]:
    generator = torch.Generator().manual_seed(0)
    latents, noise = torch.randn(2, 3, 8, 8, 8, generator=generator)
    conditions = {
        "c_crossattn": torch.randn(3, 16, 128, generator=generator),
        "y": torch.randn(3, 320, generator=generator),
    }
    return latents, noise, torch.tensor([0.1, 1.0, 9.0]), conditions


@pytest.mark.parametrize("kind", [ModelType.EPS, ModelType.V_PREDICTION, ModelType.FLOW])
def test_against_the_prediction_itself(inner, kind):
    """Naively: run the network, compare with the noise, with v = alpha noise - sigma x0, or with
    the flow noise - x0.
    """
    latents, noise, sigma, conditions = batch()
    if kind == ModelType.FLOW:
        sigma = torch.tensor([0.1, 0.5, 0.9])
    model = build_model(latent_format(1.0, [[0.0] * 3] * 9))
    model.model_sampling = comfy.model_base.model_sampling(model.model_config, kind)
    model.diffusion_model.load_state_dict(inner.diffusion_model.state_dict())
    column = sigma.view(-1, 1, 1, 1)
    root = (1 + column**2).sqrt()
    if kind == ModelType.FLOW:
        x, target = (1 - column) * latents + column * noise, noise - latents
    else:
        x = (latents + column * noise) / root
        target = noise if kind == ModelType.EPS else (noise - column * latents) / root
    with torch.no_grad():
        loss = denoising_loss(model, latents, noise, sigma, conditions, {})
        out = model.diffusion_model(
            x,
            model.model_sampling.timestep(sigma).float(),
            context=conditions["c_crossattn"],
            y=conditions["y"],
        )
    assert float(loss) == pytest.approx(float((out - target).square().mean()), rel=1e-4)


def test_noise_levels_are_those_of_the_models_timesteps(inner):
    sampling = inner.model_sampling
    sigma = sigma_at(sampling, torch.tensor([0.0, 0.5, 0.9999]))
    assert torch.allclose(sigma, sampling.sigmas[[0, 500, 999]].float())


def test_entropy_sees_every_cross_attention_call_and_only_those(inner):
    """Seven transformer blocks; the outputs stay as they are, and so do the modules."""
    latents, noise, sigma, conditions = batch()
    seen = []

    class Record(EntropyRecord):
        def record(self, q, k, scale=None):
            seen.append((q.shape, k.shape))
            super().record(q, k, scale)

    def hooks():
        return sum(len(m._forward_hooks) for m in inner.modules())

    before, record = hooks(), Record()
    with torch.no_grad():
        plain = denoising_loss(inner, latents, noise, sigma, conditions, {})
        with recorded_attention(inner, record) as override:
            options = {"optimized_attention_override": override}
            loss = denoising_loss(inner, latents, noise, sigma, conditions, options)
    assert torch.equal(plain, loss) and hooks() == before
    assert len(seen) == 7
    assert all(q[:2] == k[:2] == (3, 3) and k[2] == 16 for q, k in seen)
    entropy = float(record.take())
    assert 0 < entropy < float(torch.tensor(16.0).log())
    assert attention_entropy(torch.zeros(1, 4, 8), torch.zeros(1, 16, 8)) > entropy
