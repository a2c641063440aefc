"""Prior preservation: the loss of DreamBooth's eq. 2, by one forward pass or by two."""

import comfy.model_management
import pytest
import torch

from lora2_core import load, save
from lora2_core.host.training import objective, prior, setup
from lora2_core.host.training.choices import Choices
from lora2_core.host.training.loan import on_loan
from lora2_core.host.training.masks import MaskSettings
from lora2_core.host.training.objective import make_draw
from lora2_core.host.training.prior import PriorSettings, joint_loss
from lora2_core.host.training.run import train_on
from lora2_core.training.loss import LossSettings
from tests.host.examples import examples_of, with_masks

from .flow_models import build, pictures

FIELDS = {"steps": 3, "learning_rate": 1e-2, "mode": "fixed", "target_rank": 2, "batch_size": 2}
SETTINGS = [LossSettings(), LossSettings(weighting="min_snr", huber=0.5, noise_offset=0.1)]


def smaller(latents: list[dict]) -> list[dict]:
    """The same pictures with a row of two less."""
    return [{"samples": latent["samples"][..., :-2, :]} for latent in latents]


def wrong(*_, **__):
    raise AssertionError("training began on bad input")


@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("settings", SETTINGS, ids=["plain", "weighed"])
@pytest.mark.parametrize("shapes", ["one shape", "two shapes"])
def test_it_is_the_subjects_loss_and_the_priors(playground, monkeypatch, shapes, settings, masked):
    """Naively: two forward passes and two means; so are the gradients of a layer's weight."""
    mask = MaskSettings([torch.eye(32)[None]]) if masked else MaskSettings()
    others = playground.latents[2:]
    others = others if shapes == "one shape" else smaller(others)
    calls = []
    plain = objective.denoising_loss
    monkeypatch.setattr(
        objective, "denoising_loss", lambda *a: calls.append(len(a[1])) or plain(*a)
    )
    with on_loan(playground.model) as inner:
        ours = examples_of(playground.model, inner, playground.latents[:2], playground.positive[:2])
        theirs = examples_of(playground.model, inner, others, playground.positive[2:])
        generator = torch.Generator().manual_seed(0)
        subject = make_draw(inner, with_masks(ours, mask), 2, settings)(generator)
        class_ = make_draw(inner, theirs, 2, settings)(generator)
        weight = inner.diffusion_model.middle_block[1].transformer_blocks[0].attn2.to_q.weight
        weight.requires_grad_(True)
        losses = []
        for draw in (subject, class_):
            latents = torch.cat([item.latent for item in draw.examples])
            conditions = objective.collate(draw.examples)[1]
            x = inner.model_sampling.noise_scaling(draw.sigma, draw.noise.clone(), latents)
            out = inner.apply_model(x, draw.sigma, transformer_options={}, **conditions)
            error = (out - latents) / draw.sigma.view(-1, 1, 1, 1)
            if settings.huber:
                line = 2 * settings.huber * error.abs() - settings.huber**2
                values = torch.where(error.abs() <= settings.huber, error**2, line)
                values = values * (5.0 * draw.sigma**2).clamp(max=1).view(-1, 1, 1, 1)
            else:
                values = error**2
            if masked and draw is subject:  # an 8 x 8 identity of 1/4, on a floor
                places = 0.1 + 0.9 * torch.eye(8) / 4
                values = values * places / places.mean()
            losses.append(values.mean())
        expected = losses[0] + 0.7 * losses[1]
        calls.clear()
        found = joint_loss(inner, subject, class_, 0.7, {}, settings)
        gradients = [torch.autograd.grad(loss, weight)[0] for loss in (found, expected)]
        weight.requires_grad_(False)
    assert calls == ([4] if shapes == "one shape" else [2, 2])
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(*gradients, rtol=1e-3, atol=1e-6)


def trained(playground, **options):
    data = playground.model, playground.latents[:2], playground.positive[:2]
    return train_on(*data, Choices.of({**FIELDS, **options}), lambda step: None)


def of_class(playground, **more) -> dict:
    latents, positive = playground.latents[2:], playground.positive[2:]
    return {"prior_latents": latents, "prior_positive": positive, **more}


def test_a_run_with_a_prior_says_so_and_is_reproducible(playground, tmp_path):
    runs = [trained(playground, **of_class(playground, prior_weight=0.5)) for _ in range(2)]
    assert runs[0].stopped_by is None and runs[0].losses == runs[1].losses
    save(tmp_path / "a.safetensors", runs[0].lora)
    origin = load(tmp_path / "a.safetensors").origin
    assert origin.file.metadata["ss_prior_loss_weight"] == "0.5"
    assert origin.file.metadata["ss_num_reg_images"] == "2"
    assert origin.run.settings["prior_images"] == 2
    assert "masked_loss" not in origin.run.settings


def test_without_a_weight_it_is_as_without_the_node(playground):
    plain, none = trained(playground), trained(playground, **of_class(playground, prior_weight=0.0))
    assert plain.losses == none.losses
    assert plain.lora.origin.run.settings == none.lora.origin.run.settings
    for name, layer in plain.lora.layers.items():
        assert torch.equal(layer.delta(), none.lora.layers[name].delta())
    assert not {"prior_weight", "masked_loss"} & set(plain.lora.origin.run.settings)


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"prior_positive": None}, "prior_latents has no captions: connect prior_positive too."),
        ({"prior_latents": None}, "prior_positive has no pictures: connect prior_latents too."),
        ({"prior_latents": []}, "Of the prior: There are no latents to train on"),
        ({"prior_positive": []}, "Of the prior: positive is empty"),
        ({"prior_latents": "four"}, "Of the prior: There are 4 latents but 2 captions"),
        ({"prior_latents": "foreign"}, "Of the prior: Latent 1 has 4 channels, but .* 8"),
        ({"prior_positive": "foreign"}, "prior_positive is 768 wide, but positive is 128"),
        ({"prior_weight": float("nan")}, "prior_weight is nan"),
        ({"prior_weight": -1.0}, "prior_weight is -1.0: give a number from 0 to 1000"),
    ],
)
def test_contradictions(playground, monkeypatch, change: dict, sentence: str):
    monkeypatch.setattr(setup, "lent", wrong)
    foreign = {
        "prior_latents": [{"samples": torch.zeros(2, 4, 8, 8)}],
        "prior_positive": [[[torch.zeros(1, 77, 768), {}]]],
    }
    for name, value in change.items():
        if value == "foreign":
            change = {name: foreign[name]}
        if value == "four":
            change = {name: playground.latents}
    with pytest.raises(ValueError, match=sentence) as error:
        trained(playground, **of_class(playground) | change)
    assert "\n" not in str(error.value) and str(error.value).endswith(".")


def test_choices_compare_and_show_without_their_pictures(playground):
    """Two settings of the same pictures are alike, and a traceback holds no tensors."""
    one = PriorSettings(**of_class(playground))
    assert one == PriorSettings(**of_class(playground)) and one != PriorSettings(prior_weight=2.0)
    assert repr(one) == "PriorSettings(prior_weight=1.0)"


def test_an_interrupt_keeps_what_was_learned(playground):
    def interrupt(step) -> None:
        raise comfy.model_management.InterruptProcessingException

    data = playground.model, playground.latents, playground.positive
    outcome = train_on(*data, Choices.of({**FIELDS, **of_class(playground)}), interrupt)
    assert len(outcome.losses) == 1 and outcome.stopped_by is not None


@pytest.mark.parametrize("name", ["Flux", "Qwen-Image"])
def test_flow_models_by_one_pass_or_two(name: str, monkeypatch):
    """Latents [B, channels, h, w] and of one frame; the subject has a mask."""
    model, (latents, positive) = build(name), pictures(name, count=4)
    mask = torch.zeros(1, 32, 32)
    mask[..., :16] = 1
    with on_loan(model) as inner, torch.no_grad():
        items = examples_of(model, inner, latents, positive)
        generator = torch.Generator().manual_seed(0)
        subject = make_draw(inner, with_masks(items[:2], MaskSettings([mask])), 2)(generator)
        class_ = make_draw(inner, items[2:], 2)(generator)
        together = joint_loss(inner, subject, class_, 0.7, {})
        monkeypatch.setattr(prior, "by_shape", lambda items: [[0], [1]])
        apart = joint_loss(inner, subject, class_, 0.7, {})
        monkeypatch.undo()
    torch.testing.assert_close(together, apart, rtol=1e-4, atol=1e-6)
    data = [{"samples": latents[0]["samples"][:2]}], positive
    preserved = {"prior_latents": latents, "prior_positive": positive, "masks": [mask]}
    out = train_on(model, *data, Choices.of({**FIELDS, **preserved}), lambda step: None)
    assert out.stopped_by is None and len(out.losses) == 3
