"""Latents of every kind: videos of several lengths, audio, pixels, and several tensors in one."""

from math import isfinite

import comfy.model_management
import pytest
import torch
from comfy.nested_tensor import NestedTensor

from lora2_core import RankSettings, TrainSettings
from lora2_core.files.metadata import run_entries
from lora2_core.host.training import run
from lora2_core.host.training.choices import Choices
from lora2_core.host.training.examples import by_shape
from lora2_core.host.training.latents import count_pictures, flatten_latents
from lora2_core.host.training.loan import on_loan
from lora2_core.host.training.masks import MaskSettings
from lora2_core.host.training.objective import Draw, loss_of
from lora2_core.host.training.run import train_on
from lora2_core.host.training.streams import levels, shifted
from tests.host.examples import examples_of
from tests.host.kept import quiet
from tests.models.build import build
from tests.models.data import data_for

KINDS = ["WAN21_T2V", "StableAudio", "ChromaRadiance", "CogVideoX_T2V"]  # of latents
NESTED = ["MiniMaxH3", "TripoSplat"]  # several tensors in one latent


def run_of(**more) -> Choices:
    return Choices(RankSettings(mode="fixed", target_rank=2), TrainSettings(2, 1e-2), **more)


def drawn(*shape: int) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(4))


@pytest.mark.parametrize("name", [*KINDS, *NESTED])
def test_every_kind_trains(name):
    model = build(name)
    out = train_on(model, *data_for(name, model), run_of(), lambda step: None)
    assert out.stopped_by is None and len(out.losses) == 2
    assert all(map(torch.isfinite, map(torch.tensor, out.losses)))
    said = run_entries(out.lora, "").get("ss_resolution")
    assert (said is None) == (name in ("StableAudio", "TripoSplat"))


@pytest.mark.parametrize("name", NESTED)
def test_several_tensors_are_held_out_and_preserved(name):
    model = build(name)
    latents, positive = data_for(name, model)
    more = {"prior_latents": latents, "prior_positive": positive}
    more |= {"validation_latents": latents, "validation_positive": positive}
    seen, steps = [], {"steps": 2, "mode": "fixed", "target_rank": 2}
    choices = Choices.of(steps | more | {"validation_every": 1})
    out = train_on(model, latents, positive, choices, quiet, on_validated=seen.append)
    assert len(seen) == 3 and isfinite(seen[-1].losses[-1][1])
    said = out.lora.origin.run.settings
    assert said["prior_images"] == said["validation_images"] == count_pictures(latents)


def test_what_fails_of_the_metadata_fails_before_the_first_step(monkeypatch):
    def fails(*args):
        raise TypeError("no metadata")

    monkeypatch.setattr(run, "metadata_of", fails)
    model, steps = build("StableAudio"), []
    with pytest.raises(TypeError, match="no metadata"):
        train_on(model, *data_for("StableAudio", model), run_of(), steps.append)
    assert not steps


def test_lengths_are_buckets():
    """Videos of one length share a batch, others do not; each is trained on as it is."""
    model = build("WAN21_T2V")
    _, positive = data_for("WAN21_T2V", model)
    latents = [{"samples": drawn(2, 16, frames, 8, 8)} for frames in (3, 1)]
    latents.append({"samples": drawn(1, 16, 8, 8)})  # a picture is one frame
    with on_loan(model) as inner:
        assert by_shape(examples_of(model, inner, latents, positive)) == [[0, 1], [2, 3, 4]]
    assert count_pictures(latents) == 5
    train_on(model, latents, positive, run_of(batch_size=2), lambda step: None)


def test_lengths_of_audio_are_buckets():
    model = build("StableAudio")
    _, positive = data_for("StableAudio", model)
    latents = [{"samples": drawn(2, 64, 16)}, {"samples": drawn(1, 64, 24)}]
    with on_loan(model) as inner:
        assert by_shape(examples_of(model, inner, latents, positive)) == [[0, 1], [2]]


def test_several_tensors_are_packed_and_counted():
    model = build("TripoSplat")
    parts = drawn(2, 16, 16), drawn(2, 1, 5)
    (first, second) = flatten_latents([{"samples": NestedTensor(list(parts))}], model)
    assert first.shapes == ((1, 16, 16), (1, 1, 5)) and not first.pictures
    assert torch.equal(second.values[0, 0, -5:], parts[1][1, 0])
    assert count_pictures([{"samples": NestedTensor(list(parts))}]) == 2


REFUSED = {
    "a video for a model of pictures": (
        "SDXL", drawn(1, 4, 3, 8, 8),
        "Latent 1 has 5 dimensions, .* have 4: a latent of video, for a model of picture. Encode",
    ),
    "a picture for a model of audio": ("StableAudio", drawn(1, 64, 8, 8), "model of audio"),
    "wrong channels": ("WAN21_T2V", drawn(1, 4, 2, 8, 8), "has 4 channels, but .* have 16"),
    "several tensors for a model of one": (
        "WAN21_T2V", NestedTensor([drawn(1, 16, 2, 8, 8), drawn(1, 8, 16)]),
        "The latents hold 2 tensors, such as video with audio, but this model takes one",
    ),
    "one tensor for a model of several": (
        "MiniMaxH3", drawn(1, 32, 3, 8, 8), "learns from latents of several tensors",
    ),
    "NaN in the second": (
        "TripoSplat", NestedTensor([drawn(1, 16, 16), torch.full((1, 1, 5), torch.nan)]),
        "Latent 1 holds NaN",
    ),
    "other counts": (
        "TripoSplat", NestedTensor([drawn(2, 16, 16), drawn(1, 1, 5)]), "LATENT 1 holds no picture",
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", REFUSED)
def test_what_does_not_fit_gets_one_sentence(case):
    name, samples, sentence = REFUSED[case]
    model = build(name)
    _, positive = data_for(name, model)
    with pytest.raises(ValueError, match=sentence) as error:
        train_on(model, [{"samples": samples}], positive, run_of(), lambda step: None)
    assert "\n" not in str(error.value)


def test_audio_has_no_masks():
    model = build("StableAudio")
    data = data_for("StableAudio", model)
    choices = run_of(mask=MaskSettings([torch.ones(1, 8, 8)]))
    with pytest.raises(ValueError, match="masks say which parts of a picture count, but"):
        train_on(model, *data, choices, lambda step: None)


def test_a_schedule_of_its_own_for_audio():
    """g takes one shift away and gives another: sigma(t; 12) goes to sigma(t; 3) for every time t,
    and the slope is its derivative.
    """
    time = torch.linspace(0.05, 0.95, 7, dtype=torch.float64)

    def sigma(shift: float) -> torch.Tensor:
        return shift * time / (1 + (shift - 1) * time)

    told = sigma(12).requires_grad_()
    with torch.inference_mode(False), torch.enable_grad():
        told = told.clone().requires_grad_()
        own, slope = shifted(told, 12, 3)
        (derivative,) = torch.autograd.grad(own.sum(), told)
    torch.testing.assert_close(own.detach(), sigma(3))
    torch.testing.assert_close(slope.detach(), derivative)


def test_the_loss_of_video_with_audio_is_zero_for_a_perfect_prediction(monkeypatch):
    """A model that predicts noise - data, its audio times the slope of the schedule, as the host's
    does: no error in either part. Told by one schedule alone, there would be one.
    """
    model = build("MiniMaxH3")
    with on_loan(model) as inner:
        examples = examples_of(model, inner, *data_for("MiniMaxH3", model))
        x0, noise = examples[0].latent, drawn(*examples[0].latent.shape)
        sigma, shapes = torch.tensor([0.7]), examples[0].shapes
        own, slope = shifted(sigma, 12, 3)
        video = torch.Size(shapes[0]).numel()

        def predict(x, sigma, **_):
            at = torch.full_like(x, float(sigma))
            at[..., video:] = own
            torch.testing.assert_close(x, at * noise + (1 - at) * x0)
            out = noise - x0
            out[..., video:] *= slope
            return x - sigma * out

        monkeypatch.setattr(inner, "apply_model", predict)
        assert float(loss_of(inner, Draw(examples, noise, sigma), {})) < 1e-10
        assert levels(inner, sigma, shapes[:1]) is None
    assert comfy.model_management.in_training is False
