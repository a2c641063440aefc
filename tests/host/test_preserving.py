"""Preservation without pictures: the class stays as the frozen model has it."""

import pytest
import torch

from lora2_core import load, save
from lora2_core.host.data.encoding import CAPTION
from lora2_core.host.training import setup as module
from lora2_core.host.training.choices import Choices
from lora2_core.host.training.examples import collate
from lora2_core.host.training.inputs import check_inputs
from lora2_core.host.training.objective import Draw, make_draw
from lora2_core.host.training.preserving import Preservation, PreserveSettings
from lora2_core.host.training.run import train_on
from lora2_core.host.training.setup import set_up
from tests.host.examples import examples_of
from tests.host.kept import bytes_of, keep, quiet, stop_at
from tests.host.killed import FIELDS
from tests.tiers import fast

CLASS = "owl = koala"


@pytest.fixture(scope="module")
def data(playground) -> tuple:
    """A model, latents and captions that say their texts, as LoRA² Dataset gives them."""
    captions = [f"owl, noto style, {colour} background" for colour in ("red", "blue", "green")]
    return playground.model, playground.latents, said(playground, [*captions, "an owl"])


def said(playground, texts: list[str]) -> list:
    with torch.inference_mode():
        clip = playground.clip
        made = [clip.encode_from_tokens_scheduled(clip.tokenize(text)) for text in texts]
    return [
        [[cross, facts | {CAPTION: t}] for cross, facts in c]
        for c, t in zip(made, texts, strict=True)
    ]


@pytest.fixture
def trained(playground, data):
    def go(on_step=quiet, prompt: str = CLASS, **options):
        own = {"preserve_prompt": prompt, "preserve_clip": playground.clip}
        return train_on(*data, Choices.of(FIELDS | own | options), on_step)

    return go


@pytest.mark.parametrize("mode", fast(["fixed", "adaptive", "paper"], "adaptive"))
def test_a_new_adapter_differs_in_nothing(trained, mode: str):
    """The first loss is that of the same pictures and noise without it, to the last bit."""
    plain, preserved = (trained(mode=mode, steps=3, prompt=p) for p in ("", CLASS))
    assert preserved.losses[0] == plain.losses[0] and preserved.losses[1] > plain.losses[1]


def test_a_weight_of_zero_is_as_without(trained, tmp_path):
    plain, none = trained(prompt="", steps=3), trained(preserve_weight=0.0, steps=3)
    assert bytes_of(plain) == bytes_of(none)
    assert plain.lora.origin.run.settings == none.lora.origin.run.settings
    preserved = trained(steps=1, preserve_weight=2.0)
    save(tmp_path / "a.safetensors", preserved.lora)
    settings = load(tmp_path / "a.safetensors").origin.run.settings
    assert (settings["preserve_prompt"], settings["preserve_weight"]) == (CLASS, 2.0)
    assert "preserve_weight" not in plain.lora.origin.run.settings


def test_it_is_the_difference_from_the_model_without_its_adapter(playground, data):
    """Against two plain passes, one after the adapters are gone; so are the gradients."""
    fields = FIELDS | {"preserve_prompt": CLASS, "preserve_clip": playground.clip}
    choices = Choices.of(fields | {"mode": "fixed"})
    texts = ["koala" + facts[CAPTION].removeprefix("owl") for ((_, facts),) in data[2][:3]]
    with set_up(data[0], check_inputs(*data, choices), choices) as setup:
        adapters, inner = setup.adapters, setup.loan.inner
        generator = torch.Generator().manual_seed(0)
        with torch.no_grad():
            for part in adapters.components.values():
                part.lora_up.normal_(0, 0.1, generator=generator)
        draw = make_draw(inner, setup.examples[:3], 3)(generator)
        preservation = Preservation(inner, adapters.off, 0.7, {}, choices.loss)
        (part,) = preservation.parts(draw, 0.5)
        order = [next(i for i, e in enumerate(setup.examples) if e is d) for d in draw.examples]
        captions = said(playground, [texts[i] for i in order])
        latents = [data[1][i] for i in order]
        ours = examples_of(data[0], inner, latents, captions)

        def predicted() -> torch.Tensor:
            values, conditions = collate(ours)
            x = inner.model_sampling.noise_scaling(draw.sigma, draw.noise.clone(), values)
            out = inner.apply_model(x, draw.sigma, transformer_options={}, **conditions)
            return (out - x) / draw.sigma.view(-1, 1, 1, 1)

        parameters = [c.lora_up for c in adapters.components.values()]
        found = part.loss()
        gradients = torch.autograd.grad(found, parameters)
        adapted = predicted()
        with torch.no_grad(), adapters.off():
            target = predicted()
        expected = 0.7 * 0.5 * (adapted - target).square().mean()
        naive = torch.autograd.grad(expected, parameters)
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-7)
        for one, other in zip(gradients, naive, strict=True):
            torch.testing.assert_close(one, other, rtol=1e-3, atol=1e-6)
        adapters.detach()
        with torch.no_grad():
            torch.testing.assert_close(predicted(), target, rtol=0, atol=0)


@pytest.mark.parametrize("seed", fast([0, 1, 2], 0))
def test_the_class_stays_nearer_to_the_base(playground, data, seed: int):
    """After the same steps on the same pictures, at noise and levels that no step has drawn."""
    moved = {}
    for prompt in ("", CLASS):
        own = {"preserve_prompt": prompt, "preserve_clip": playground.clip}
        choices = Choices.of(FIELDS | own | {"steps": 20, "seed": seed, "preserve_weight": 3.0})
        with set_up(data[0], check_inputs(*data, choices), choices) as setup:
            for _ in setup.steps():
                pass
            captions = said(playground, ["koala, noto style, red background"] * 4)
            class_ = examples_of(data[0], setup.loan.inner, data[1], captions)
            generator = torch.Generator().manual_seed(99)
            noise = torch.randn(4, *class_[0].latent.shape[1:], generator=generator)
            draw = Draw(class_, noise, torch.tensor([0.5, 1.0, 2.0, 5.0]))
            there = Preservation(setup.loan.inner, setup.adapters.off, 1.0, {}, choices.loss)
            with torch.no_grad():
                adapted = there.error(draw)
                with setup.adapters.off():
                    off = there.error(draw)
            moved[prompt] = float((adapted - off).square().mean())
    assert 0 < moved[CLASS] < 0.7 * moved[""], moved


def test_a_stopped_run_goes_on_to_the_same_bytes(trained, name):
    whole = trained(steps=6)
    part = trained(stop_at(3), steps=6, **keep(name))
    rest = trained(steps=6, **keep(name, resume=part.checkpoint))
    assert rest.resumed_after == 3 and bytes_of(rest) == bytes_of(whole)
    with pytest.raises(ValueError, match="preserve_prompt"):
        trained(steps=6, prompt="owl = bear", **keep(name, resume=part.checkpoint))


def test_it_goes_together_with_the_rest(trained, playground, data):
    """A prior, accumulation, a trained text encoder, checkpointing, two shapes and attention."""
    small = [{"samples": x["samples"][..., :-2, :]} for x in data[1]]
    options = {
        "prior_latents": small, "prior_positive": data[2], "clip": playground.clip,
        "gradient_accumulation_steps": 2, "checkpointing": "on", "mode": "paper",
        "attention_weight": 0.1, "steps": 3, "preserve_clip": None, "rank_dropout": 0.1,
    }  # fmt: skip
    out = trained(**options)
    assert out.stopped_by is None and torch.tensor(out.losses).isfinite().all()
    assert any(n.startswith("lora_te") for n in out.lora.layers)
    plain, again = (trained(steps=3, checkpointing=c) for c in ("off", "on"))
    assert plain.losses == pytest.approx(again.losses, rel=1e-5)


@pytest.mark.parametrize(
    ("prompt", "text", "wanted"),
    [
        ("sks dog = dog", "a Sks dog, sks dogs", "a dog, sks dogs"),
        ("sks =", "a sks dog", "a dog"),
        ("owl = koala", "owlet", None), ("owl = koala", "", None), ("a dog", "a sks dog", "a dog"),
        ("a dog", None, "a dog"), ("a dog", "a dog", None), (r"a.c = \1", "a.c abc", r"\1 abc"),
    ],
)  # fmt: skip
def test_the_class_takes_the_place_of_the_word(prompt, text, wanted):
    assert PreserveSettings(prompt).caption_of(text) == wanted


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"prompt": "= dog"}, "preserve_prompt is '= dog': give the trained word, ="),
        ({"prompt": "owl = OWL"}, "preserve_prompt is 'owl = OWL'"),
        ({"prompt": "fox = dog"}, "no caption has the trained word"),
        ({"prompt": 3}, "preserve_prompt is 3: give a text"),
        ({"preserve_weight": -1.0}, "preserve_weight is -1.0"),
        ({"preserve_clip": None}, "connect preserve_clip of LoRA2 Data Options"),
    ],
)  # fmt: skip
def test_faults_are_one_sentence_before_anything_is_loaded(trained, monkeypatch, options, sentence):
    monkeypatch.setattr(module, "lent", None)
    with pytest.raises(ValueError, match=sentence) as error:
        trained(**options)
    assert "\n" not in str(error.value)


def test_captions_that_are_not_known_as_text(playground, data):
    options = {"preserve_prompt": CLASS, "preserve_clip": playground.clip}
    with pytest.raises(ValueError, match="positive does not say its captions as text"):
        train_on(*data[:2], playground.positive, Choices.of(FIELDS | options), quiet)
    options["preserve_prompt"] = "a koala"
    out = train_on(*data[:2], playground.positive, Choices.of(FIELDS | options), stop_at(2))
    assert len(out.losses) == 2


def test_the_node_passes_it_on(nodes, playground):
    node = nodes["LoRA2DataOptions"]
    fields = {"prior_weight": [1.0], "mask_blur": [0.0], "mask_floor": [0.1]}
    given = {"preserve_prompt": [CLASS], "preserve_weight": [0.5]}
    (options,) = node.execute(**fields, **given, preserve_clip=[playground.clip]).result
    made = Choices.of(options).preserve
    assert (made.preserve_prompt, made.preserve_weight) == (CLASS, 0.5)
    assert made.preserve_clip is playground.clip
    assert node.execute(**fields, preserve_prompt=[" "], preserve_weight=[0.5]).result == ({},)
