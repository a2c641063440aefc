"""Losses and noise levels against the formulas of their papers."""

import math

import pytest
import torch

from lora2_core.training.loss import SAMPLINGS, WEIGHTINGS, LossSettings

DRAWN = torch.rand(20000, generator=torch.Generator().manual_seed(0))


def test_the_defaults_change_nothing():
    """Neither the times, nor the noise, nor the error, to the last bit."""
    settings = LossSettings()
    assert torch.equal(settings.times(DRAWN), DRAWN)
    assert torch.equal(1 - settings.times(1 - DRAWN), DRAWN)
    noise, generator = torch.randn(2, 3, 4, 4), torch.Generator()
    before = generator.get_state()
    assert settings.offset(noise, generator) is noise
    assert torch.equal(generator.get_state(), before)
    assert torch.equal(settings.mean(noise, None), noise.square().mean())
    assert WEIGHTINGS[settings.weighting] is None


@pytest.mark.parametrize(
    ("sampling", "share_below"),
    [
        ("uniform", lambda t: t),
        ("logit_normal", lambda t: 0.5 + 0.5 * math.erf(math.log(t / (1 - t)) / math.sqrt(2))),
        ("low_noise", lambda t: t ** (1 / 3)),
        ("high_noise", lambda t: 1 - (1 - t) ** (1 / 3)),
    ],
)
@pytest.mark.parametrize(("low", "high"), [(0.0, 1.0), (0.2, 0.6)])
def test_times_are_drawn_from_their_distribution(sampling: str, share_below, low, high):
    settings = LossSettings(sampling=sampling, min_timestep=low, max_timestep=high)
    times = settings.times(DRAWN)
    assert times.min() >= low and times.max() <= high
    for t in (0.1, 0.3, 0.5, 0.8):
        below = (times < low + t * (high - low)).float().mean()
        assert float(below) == pytest.approx(share_below(t), abs=0.015)


@pytest.mark.parametrize("sampling", SAMPLINGS)
def test_the_ends_of_what_can_be_drawn_are_times(sampling: str):
    times = LossSettings(sampling=sampling).times(torch.tensor([0.0, 2**-24, 0.5, 1 - 2**-24]))
    assert torch.isfinite(times).all() and (times >= 0).all() and (times <= 1).all()
    assert (times.diff() >= 0).all(), "no sampling turns the order round"


@pytest.mark.parametrize("delta", [0.1, 1.0, 1e3])
def test_huber_is_the_square_up_to_delta_and_a_line_beyond(delta: float):
    error = torch.linspace(-3, 3, 61)
    values = [e**2 if abs(e) <= delta else 2 * delta * abs(e) - delta**2 for e in error.tolist()]
    found = LossSettings(huber=delta).mean(error, None)
    assert float(found) == pytest.approx(sum(values) / len(values), rel=1e-5)


def test_an_offset_is_one_number_for_each_picture_and_channel():
    noise = torch.zeros(2, 3, 4, 5)
    found = LossSettings(noise_offset=0.05).offset(noise, torch.Generator().manual_seed(1))
    expected = 0.05 * torch.randn(2, 3, 1, 1, generator=torch.Generator().manual_seed(1))
    assert torch.equal(found, noise + expected)


@pytest.mark.parametrize(
    ("field", "value", "sentence"),
    [
        ("weighting", "snr", "weighting is 'snr': choose none, min_snr, debiased."),
        ("sampling", "normal", "sampling is 'normal': choose auto, uniform, logit_normal"),
        ("gamma", 0, "gamma is 0: give a number from 0.001 to 1000."),
        ("huber", -1, "huber is -1: give a number from 0 to 1000."),
        ("noise_offset", float("nan"), "noise_offset is nan: give a number from 0 to 1."),
        ("min_timestep", -0.1, "min_timestep is -0.1: give a number from 0 to 1."),
        ("max_timestep", 2, "max_timestep is 2: give a number from 0 to 1."),
        ("min_timestep", 1.0, "min_timestep 1 is not below max_timestep 1: lower min_timestep or"),
    ],
)
def test_a_bad_value_gives_one_sentence(field: str, value: object, sentence: str):
    with pytest.raises(ValueError) as caught:
        LossSettings(**{field: value})
    assert str(caught.value).startswith(sentence) and str(caught.value).endswith(".")
