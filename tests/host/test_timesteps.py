"""Timesteps where nobody chose them: as the family of the model is usually trained, said by the
node; old choices keep their meaning.
"""

import math

import comfy.supported_models
import pytest
import torch

from lora2_core.host.training.advice import advice, family_of
from lora2_core.host.training.choices import Choices
from lora2_core.host.training.run import train_on
from lora2_core.host.training.timesteps import mu_of, noise_levels, sigma_at, usual, with_usual
from lora2_core.training.loss import LossSettings
from tests.host.flow_models import FAMILIES, LTXV, build, pictures
from tests.host.kept import quiet
from tests.models.build import build as build_class
from tests.models.data import data_for
from tests.tiers import fast

USUAL = {
    "Flux": "size_shift", "Flux 2": "size_shift", "Chroma": "size_shift",
    "Qwen-Image": "size_shift", "SD3": "logit_normal", "Lumina 2": "logit_normal",
    "Z-Image": "logit_normal", "Wan 2.1": "logit_normal",
}  # fmt: skip
DRAWN = torch.rand(4000, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("name", fast(FAMILIES, "Flux", "Z-Image"))
def test_flow_models_draw_the_middle_and_follow_their_shift(name: str):
    model = build(name)
    settings = with_usual(LossSettings(), model)
    assert settings.sampling == USUAL[name] == usual(model)
    latent = torch.zeros(1, *FAMILIES[name].latent)
    sigma = noise_levels(model.model, settings, DRAWN, latent)
    shift = model.model.model_sampling.shift
    odds = shift
    if settings.sampling == "size_shift":  # mu: the logarithm of the odds' factor
        odds = math.exp(mu_of(model.model, latent))
    # the median of a logit-normal is a half; its odds are multiplied by the shift
    assert float(sigma.median()) == pytest.approx(odds / (1 + odds), abs=0.02)
    assert float(sigma.logit().std()) == pytest.approx(1, abs=0.05), "as logit-normal ones"


@pytest.mark.parametrize(
    ("name", "sides", "mu"),
    [
        ("Flux", [(32, 32), (128, 128)], [0.5, 1.15]),
        ("Qwen-Image", [(32, 32), (181, 181)], [0.5, 0.9]),
        ("Flux 2", [(64, 64)], [2.02]),  # the host's own shift is for 1024 x 1024
        ("LTXV", [(32, 32), (64, 64)], [0.95, 2.05]),
    ],
)
def test_the_shift_rises_with_the_size(name: str, sides: list, mu: list):
    model = build(LTXV if name == "LTXV" else name).model
    frames = (1,) if name in ("Qwen-Image", "LTXV") else ()
    found = [mu_of(model, torch.empty(1, 16, *frames, *side, device="meta")) for side in sides]
    assert found == pytest.approx(mu, abs=0.01)


def test_a_shift_that_a_node_of_the_host_has_set_counts():
    from comfy_extras.nodes_model_advanced import ModelSamplingFlux

    (model,) = ModelSamplingFlux().patch(build("Flux"), 1.15, 0.5, 512, 512)
    assert with_usual(LossSettings(), model).sampling == "logit_normal"
    assert list(advice(model, [], [], Choices.of({})))[0][1] == "logit_normal, shift 0.63"


@pytest.mark.parametrize("name", ["SDXL", "SD20", "CosmosT2V"])
def test_other_models_draw_all_alike_as_ever(name: str):
    model = build_class(name)
    assert with_usual(LossSettings(), model) == LossSettings(sampling="uniform")
    sampling = model.model.model_sampling
    levels = noise_levels(model.model, LossSettings(), DRAWN, torch.zeros(1, 4, 8, 8))
    assert torch.equal(levels, sigma_at(sampling, DRAWN))


def test_what_was_chosen_before_keeps_its_meaning(nodes):
    """Saved workflows say a sampling by name."""
    for sampling in ("uniform", "logit_normal", "low_noise", "high_noise"):
        chosen = LossSettings(sampling=sampling)
        assert with_usual(chosen, build("Flux")) is chosen
    fields = {field.id: field for field in nodes["LoRA2LossOptions"].GET_SCHEMA().inputs}
    assert fields["sampling"].default == LossSettings().sampling == "auto"


def test_a_run_says_what_auto_was():
    latents, positive = pictures("Qwen-Image")
    fields = {"steps": 1, "mode": "fixed", "target_rank": 2, "layers": "attention"}
    out = train_on(build("Qwen-Image"), latents, positive, Choices.of(fields), quiet)
    assert out.lora.origin.run.settings["sampling"] == "size_shift"
    with pytest.raises(ValueError, match="the shift of this model does not depend on the size"):
        wrong = Choices.of(fields | {"sampling": "size_shift"})
        train_on(build("Z-Image"), *pictures("Z-Image"), wrong, quiet)


@pytest.mark.parametrize(
    ("name", "family", "layers"),
    [
        ("SDXL", "SDXL subject", "all in blocks"), ("SD15", "SD1.5", "all in blocks"),
        ("Flux2", "Flux.2", "attention + feed-forward"),
        ("ZImage", "Z-Image", "attention + feed-forward"),
        ("WAN22_T2V", "Wan", "attention + feed-forward"),
        ("Krea2", "Krea 2", "attention + feed-forward"),
        ("QwenImage", "Qwen-Image", "attention + feed-forward"),
        ("Lumina2", "Flow model", "all linear"),
    ],
)  # fmt: skip
def test_the_info_line_suggests_what_is_usual(name: str, family: str, layers: str):
    model = build_class(name)
    found, preset = family_of(model)
    assert found == family
    said = list(advice(model, *data_for(name, model), Choices.of({})))
    rate, rank = f"{preset.learning_rate:g}", str(preset.target_rank)
    assert said[1][1:] == [family, rate, rank, layers]
    assert Choices.of(dict(preset.settings)).target.layers in (layers, "regex")


def test_a_model_that_nobody_named_has_its_timesteps_and_no_more():
    model = build_class("Stable_Cascade_C")
    assert family_of(model) is None
    assert list(advice(model, [], [], Choices.of({}))) == [["Timesteps: {0}.", "uniform, shift 2"]]


FEW = "distilled to few steps"
GUIDED = "distilled for guidance"


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("Flux", [GUIDED]), ("FluxSchnell", [FEW]), ("HunyuanVideo", [GUIDED]),
        ("Chroma", []), ("SDXL", []), ("ZImage", ["distilled version"]),
        ("WAN21_CausalAR_T2V", [FEW]),
    ],
)  # fmt: skip
def test_distilled_models_are_told_by_what_they_say_of_themselves(name: str, words: list):
    model = build_class(name)
    latents, positive = data_for(name, model)
    said = [str(note) for note in advice(model, latents, positive, Choices.of({}))]
    found = [word for word in (FEW, GUIDED, "distilled version") if word in " ".join(said)]
    assert found == words


def test_the_remedy_takes_the_warning_away():
    from comfy_extras.nodes_flux import FluxGuidance
    from comfy_extras.nodes_model_advanced import ModelSamplingDiscrete

    model = build_class("Flux")
    latents, positive = data_for("Flux", model)
    guided = [FluxGuidance.execute(caption, 1.0).result[0] for caption in positive]
    assert GUIDED not in str(list(advice(model, latents, guided, Choices.of({}))))
    (lcm,) = ModelSamplingDiscrete().patch(build_class("SDXL"), "lcm", False)
    assert FEW in str(list(advice(lcm, [], [], Choices.of({}))))
    weight = next(k for k in lcm.model.state_dict() if k.endswith("to_q.weight"))
    lcm.add_patches({weight: ("diff", (torch.zeros_like(lcm.model.state_dict()[weight]),))})
    assert FEW not in str(list(advice(lcm, [], [], Choices.of({}))))


def test_every_model_of_a_preset_is_the_hosts():
    """A name that the host does not know would never be found."""
    from lora2_core.host.training.presets import FAMILIES as FOLDER
    from lora2_core.host.training.presets import read_preset

    known = {kind.__name__ for kind in comfy.supported_models.models}
    for path in FOLDER.glob("*.json"):
        assert set(read_preset(path.stem).models) <= known
