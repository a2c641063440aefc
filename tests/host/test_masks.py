"""Loss masks: what is masked out counts by the floor only, and a mask of ones is none."""

import math
from dataclasses import replace

import pytest
import torch

from lora2_core import load, save
from lora2_core.host.training import objective, setup
from lora2_core.host.training.choices import Choices
from lora2_core.host.training.examples import Example
from lora2_core.host.training.masks import (
    MaskSettings,
    flatten_masks,
    mask_weights,
    weights_of_mask,
)
from lora2_core.host.training.objective import denoising_loss, weights_of
from lora2_core.host.training.run import train_on
from tests.host.examples import with_masks

FIELDS = {"steps": 3, "learning_rate": 1e-2, "mode": "fixed", "target_rank": 2, "batch_size": 2}


@pytest.fixture(autouse=True)
def inference_mode():
    """Masks are prepared on loan, where the executor's mode is off."""
    with torch.inference_mode(False):
        yield


def half(side: int = 32) -> torch.Tensor:
    """[1, side, side]: the left half counts."""
    mask = torch.zeros(1, side, side)
    mask[..., : side // 2] = 1
    return mask


def blurred(mask: torch.Tensor, sigma: float) -> torch.Tensor:
    """A Gaussian over [h, w] by its definition, edges going on as they are."""
    reach, (height, width) = round(3 * sigma), mask.shape
    offsets = range(-reach, reach + 1)
    bell = [math.exp(-(d**2) / (2 * sigma**2)) for d in offsets]
    out = torch.zeros_like(mask)
    for y in range(height):
        for x in range(width):
            for dy, wy in zip(offsets, bell, strict=True):
                for dx, wx in zip(offsets, bell, strict=True):
                    row, column = min(max(y + dy, 0), height - 1), min(max(x + dx, 0), width - 1)
                    out[y, x] += wy * wx / sum(bell) ** 2 * mask[row, column]
    return out


@pytest.mark.parametrize(("blur", "floor"), [(0.0, 0.1), (0.0, 0.0), (1.0, 0.1), (2.5, 0.0)])
def test_against_the_definition(blur: float, floor: float):
    """Areas of 4 x 4, a Gaussian, the floor, and a mean of 1."""
    mask = torch.rand(1, 1, 32, 48, generator=torch.Generator().manual_seed(0)).round()
    small = mask[0, 0].reshape(8, 4, 12, 4).mean(dim=(1, 3))
    expected = floor + (1 - floor) * (blurred(small, blur) if blur else small)
    found = weights_of_mask(mask, 8, 12, MaskSettings(mask_blur=blur, mask_floor=floor))
    torch.testing.assert_close(found[0, 0], expected / expected.mean(), rtol=1e-4, atol=1e-5)
    assert float(found.mean()) == pytest.approx(1)


@pytest.mark.parametrize("blur", [0.0, 3.0])
@pytest.mark.parametrize("settings", [{}, {"mask_floor": 1.0}])
def test_ones_are_exactly_no_mask(settings: dict, blur: float):
    mask = torch.rand(1, 64, 64) if settings else torch.ones(1, 64, 64)
    chosen = MaskSettings([mask], mask_blur=blur, **settings)
    items = [Example(torch.zeros(1, 8, 8, 8), {})]
    assert with_masks(items, chosen)[0].weights is None and weights_of(items) is None


@pytest.mark.parametrize("shape", [(1, 8, 8, 8), (1, 16, 1, 8, 8), (1, 16, 3, 8, 8)])
def test_pictures_with_and_without_a_mask_share_a_batch(shape: tuple):
    items = [Example(torch.zeros(shape), {}) for _ in range(2)]
    masks = [half(), torch.ones(1, 32, 32)]
    one, other = with_masks(items, MaskSettings(masks))
    weights = weights_of([other, one])
    assert weights.shape == (2, 1, *shape[2:])
    assert torch.equal(weights[0], torch.ones(1, *shape[2:]))
    row = torch.tensor([1.0, 0.1]).repeat_interleave(4) / 0.55
    torch.testing.assert_close(weights[1], row.expand(1, *shape[2:]))


class Linear:
    """A model whose prediction is the latent itself times a number for each place."""

    diffusion_model = None

    def __init__(self, places: torch.Tensor):
        self.places, self.model_sampling = places, self

    def noise_scaling(self, sigma, noise, latents):
        return latents + sigma.view(-1, 1, 1, 1) * noise

    def calculate_denoised(self, sigma, prediction, x):
        return x - prediction * sigma.view(-1, 1, 1, 1)

    def apply_model(self, x, sigma, transformer_options):
        return x * self.places


@pytest.mark.parametrize("floor", [0.0, 0.1, 0.5])
def test_what_is_masked_out_counts_by_the_floor_only(floor: float):
    """Its gradients are `floor` times those of what counts; without a floor nothing there has a
    part in the loss.
    """
    generator = torch.Generator().manual_seed(0)
    latents, noise = torch.randn(2, 1, 4, 8, 8, generator=generator)
    sigma = torch.tensor([0.8])
    (item,) = with_masks([Example(latents, {})], MaskSettings([half()], mask_floor=floor))

    def gradient(latents: torch.Tensor, weights) -> torch.Tensor:
        places = torch.full((8, 8), 0.5, requires_grad=True)
        parts = (latents, noise, sigma, {}, {}, objective.DEFAULT, weights)
        return torch.autograd.grad(denoising_loss(Linear(places), *parts), places)[0]

    plain, weighed = gradient(latents, None), gradient(latents, item.weights)
    mean = (1 + floor) / 2
    torch.testing.assert_close(weighed[:, :4], plain[:, :4] / mean)
    torch.testing.assert_close(weighed[:, 4:], plain[:, 4:] * floor / mean)
    changed = latents.clone()
    changed[..., 4:] += 100
    assert torch.equal(gradient(changed, item.weights)[:, :4], weighed[:, :4])


def trained(playground, **options):
    data = playground.model, playground.latents, playground.positive
    return train_on(*data, Choices.of({**FIELDS, **options}), lambda step: None)


def same(one, other) -> bool:
    return all(torch.equal(v.delta(), other.layers[k].delta()) for k, v in one.layers.items())


def test_a_run_with_masks_says_so(playground, tmp_path):
    """A mask for each picture, made where the host makes them; one of ones changes nothing."""
    with torch.inference_mode():
        masks = [torch.cat([half()] * 3), half()]
        plain, ones = trained(playground), trained(playground, masks=[torch.ones(1, 32, 32)])
        masked = trained(playground, masks=masks, mask_blur=1.0, mask_floor=0.2)
    assert same(plain.lora, ones.lora) and plain.losses == ones.losses
    assert not same(plain.lora, masked.lora)
    save(tmp_path / "a.safetensors", masked.lora)
    settings = load(tmp_path / "a.safetensors").origin.run.settings
    found = {k: settings[k] for k in ("masked_loss", "mask_blur", "mask_floor")}
    assert found == {"masked_loss": True, "mask_blur": 1.0, "mask_floor": 0.2}


def test_a_scaled_mask_of_any_size_fits():
    """Pictures lose up to a latent's pixel of their sides when they are encoded."""
    latent = torch.zeros(1, 4, 95, 128)
    for size in ((767, 1024), (760, 1030), (95, 128), (48, 64)):
        (weights,) = mask_weights(MaskSettings([torch.eye(*size)]), [latent])
        assert weights.shape == (1, 1, 95, 128)


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"masks": []}, "4 latents but 0 masks: give one mask for all, or one for each picture"),
        ({"masks": [half(), half()]}, "There are 4 latents but 2 masks"),
        ({"masks": [torch.cat([half()] * 5)]}, "There are 4 latents but 5 masks"),
        ({"masks": ["white"]}, "masks holds something that is no MASK"),
        ({"masks": [torch.zeros(1, 8, 8, 3)]}, "masks holds something that is no MASK"),
        ({"masks": [half() * 255]}, "Mask 1 goes from 0 to 255: masks are from 0 to 1"),
        ({"masks": [half() * float("nan")]}, "Mask 1 goes from nan to nan"),
        ({"masks": [half() * 0]}, "Mask 1 is 0 everywhere, so nothing of its picture would count"),
        ({"masks": [half()[:, :20]]}, "Mask 1 is 32 x 20, another shape than the latent's 8 x 8"),
        ({"masks": [half()], "mask_blur": 101.0}, "mask_blur is 101.0: give a number from 0"),
        ({"masks": [half()], "mask_floor": float("nan")}, "mask_floor is nan"),
    ],
)
def test_masks_that_do_not_fit(playground, monkeypatch, change: dict, sentence: str):
    def begun(*_, **__):
        raise AssertionError("training began on bad input")

    monkeypatch.setattr(setup, "lent", begun)
    with pytest.raises(ValueError, match=sentence) as error:
        trained(playground, **change)
    assert "\n" not in str(error.value) and str(error.value).endswith(".")


def test_one_mask_serves_all_pictures():
    one = flatten_masks([half()], 3)
    assert len(one) == 3 and all(mask.shape == (1, 1, 32, 32) for mask in one)
    assert MaskSettings([half()]) == MaskSettings() != replace(MaskSettings(), mask_floor=0.0)
