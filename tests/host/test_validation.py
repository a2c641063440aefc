"""Held-out loss: training doesn't notice, what it says is true, and it goes on exactly."""

import pytest
import torch

from lora2_core import load, save
from lora2_core.adapter.history import History
from lora2_core.host.training import held_out, setup
from lora2_core.host.training.choices import Choices
from lora2_core.host.training.held_out import SEED, Probes
from lora2_core.host.training.latents import names_of
from lora2_core.host.training.loan import on_loan
from lora2_core.host.training.objective import losses_of, make_draw
from lora2_core.host.training.run import train_on
from tests.host.examples import examples_of, with_masks
from tests.host.flow_models import FAMILIES, build, pictures
from tests.host.kept import bytes_of, keep, quiet, stop_at
from tests.host.killed import FIELDS
from tests.host.test_training import state_of
from tests.tiers import each_once, fast


@pytest.fixture
def own(playground) -> dict:
    """Two pictures that are held out beside those that are trained on."""
    return {
        "validation_latents": [{"samples": x["samples"] * 0.9} for x in playground.latents[:2]],
        "validation_positive": playground.positive[:2],
    }


@pytest.fixture
def run(playground):
    def go(on_step=quiet, on_validated=quiet, **options):
        data = playground.model, playground.latents, playground.positive
        settings = Choices.of(FIELDS | options)
        return train_on(*data, settings, on_step, on_validated=on_validated)

    return go


def learned(outcome) -> tuple:
    """What two trainings could differ in but the held-out losses."""
    tensors, losses, _, ranks = bytes_of(outcome)
    return tensors, losses, ranks


@pytest.mark.parametrize(("mode", "ema"), each_once(["adaptive", "paper", "fixed"], [0.0, 0.9]))
def test_training_does_not_notice(playground, run, own, mode: str, ema: float):
    before, random = state_of(playground.model), torch.get_rng_state()
    plain = run(mode=mode, ema=ema)
    seen = []
    watched = run(
        mode=mode, ema=ema, **own, validation_every=1, picture_losses=True,
        on_validated=seen.append,
    )  # fmt: skip
    assert learned(watched) == learned(plain)
    assert state_of(playground.model) == before and torch.equal(torch.get_rng_state(), random)
    assert [v.step for v in seen] == list(range(13)) and all(v.seconds > 0 for v in seen)
    history = History.of(watched.lora)
    assert history.held_out.steps == list(range(13))
    assert (
        list(zip(history.held_out.steps, history.held_out.losses, strict=True)) == seen[-1].losses
    )
    assert history.pictures.steps == [0, 3, 6, 9, 12]
    assert len(history.pictures.losses[0]) == 4, "of every training picture"
    assert history.held_out.returned is None and seen[-1].best == history.held_out.best


def test_a_part_of_the_pictures_is_not_trained_on(playground, run):
    """As if it had never been there."""
    data = playground.model, playground.latents, playground.positive
    out = run(validation_split=0.25, validation_every=6)
    rest = [i for i in range(4) if i != 2]
    without = train_on(
        data[0], [data[1][i] for i in rest], [data[2][i] for i in rest], Choices.of(FIELDS), quiet
    )
    assert learned(out) == learned(without)
    settings = out.lora.origin.run.settings
    assert settings["validation_split"] == 0.25 and out.lora.origin.run.images == 3


def test_the_loss_is_the_one_that_is_trained(playground):
    """Naively: forward passes one by one, with the noise of the seed, in the middle of quarters."""
    settings = Choices.of(FIELDS | {"weighting": "min_snr", "huber": 0.5}).loss
    with on_loan(playground.model) as inner:
        examples = examples_of(playground.model, inner, playground.latents, playground.positive)
        for at_once in (1, 3, 4):
            probes = Probes(inner, examples, [], [], {}, settings, at_once)
            found = probes.losses(examples[1], 7)
            noise = torch.randn((4, 8, 8, 8), generator=torch.Generator().manual_seed(SEED + 7))
            sampling, wanted = inner.model_sampling, []
            for level in range(4):
                time = int((level + 0.5) / 4 * sampling.num_timesteps)
                sigma = sampling.sigma(torch.tensor([time])).float()
                draw = held_out.Draw([examples[1]], noise[level : level + 1], sigma)
                wanted.append(float(held_out.losses_of(inner, draw, {}, settings)[0]))
            assert found == pytest.approx(wanted, rel=1e-4)


@pytest.mark.parametrize("masked", [False, True])
def test_losses_of_pictures_have_the_loss_of_the_batch_as_their_mean(playground, masked: bool):
    from lora2_core.host.training.masks import MaskSettings
    from lora2_core.host.training.objective import loss_of
    from lora2_core.training.loss import LossSettings

    settings = LossSettings(weighting="min_snr", huber=0.3)
    with on_loan(playground.model) as inner, torch.no_grad():
        examples = examples_of(playground.model, inner, playground.latents, playground.positive)
        if masked:
            examples = with_masks(examples, MaskSettings([torch.eye(32)[None]]))
        draw = make_draw(inner, examples, 4, settings)(torch.Generator().manual_seed(0))
        each = losses_of(inner, draw, {}, settings)
        assert each.shape == (4,) and float(each.std()) > 0
        torch.testing.assert_close(each.mean(), loss_of(inner, draw, {}, settings))


@pytest.mark.parametrize("family", fast(FAMILIES))
def test_levels_rise_with_the_noise_in_every_kind_of_model(family: str):
    model = build(family)
    with on_loan(model) as inner:
        probes = Probes(inner, [], [], [], {}, Choices.of({}).loss, 1)
        sigma = probes.sigma(torch.zeros(1, *FAMILIES[family].latent)).tolist()
    assert len(sigma) == 4 and sigma == sorted(set(sigma)) and sigma[0] > 0
    latents, positive = pictures(family)
    options = {"steps": 2, "mode": "fixed", "target_rank": 2, "layers": "attention"}
    out = train_on(
        model, latents, positive,
        Choices.of(options | {"validation_latents": latents, "validation_positive": positive}),
        quiet,
    )  # fmt: skip
    assert out.stopped_by is None and History.of(out.lora).held_out.steps == [0, 2]


@pytest.mark.parametrize("mode", ["adaptive", "fixed"])
def test_the_best_adapter_is_returned(run, own, mode: str, monkeypatch):
    """It is what the run would have given had it ended there."""
    course = iter([9.0, 8.0, 7.0, 6.0, 5.0, 4.0, 3.0, 2.0, 1.0, 5.0, 6.0, 7.0, 8.0])
    real = Probes.losses
    per = {}

    def made_up(self, example, number):
        real(self, example, number)
        if number == 0:
            per["now"] = next(course)
        return [per["now"]] * 4

    options = {"mode": mode, "ema": 0.9, **own, "validation_every": 1}
    monkeypatch.setattr(Probes, "losses", made_up)
    out = run(**options, return_best=True)
    history = History.of(out.lora)
    best = history.held_out.returned
    assert best == 7, "the losses of 6, 7 and 8 are lower than those of 7, 8 and 9"
    assert len(out.losses) == 12
    monkeypatch.setattr(Probes, "losses", real)
    cut = run(stop_at(best), mode=mode, ema=0.9)
    assert learned(out)[0] == learned(cut)[0] and learned(out)[2] == learned(cut)[2]


def test_the_best_adapter_has_come_down_to_its_size(run, own):
    out = run(**own, validation_every=1, return_best=True, steps=12)
    assert out.lora.origin.run.history["validation_returned"]
    assert out.lora.mean_rank <= 4


@pytest.mark.parametrize("stop", fast([7, 6]))
def test_a_stopped_run_goes_on_with_the_same_losses_and_the_same_best_step(run, name, own, stop):
    options = own | {"validation_every": 3, "return_best": True, "picture_losses": True}
    whole = run(**options)
    part = run(stop_at(stop), **options, **keep(name))
    rest = run(**options, **keep(name, resume=part.checkpoint))
    assert rest.resumed_after == stop and bytes_of(rest) == bytes_of(whole)
    with pytest.raises(ValueError, match="return_best"):
        run(**options | {"return_best": False}, **keep(name, resume=part.checkpoint))


def test_a_loss_that_fails_ends_no_run(run, own, monkeypatch, caplog):
    def fail(*_):
        raise RuntimeError("no kernel")

    monkeypatch.setattr(Probes, "losses", fail)
    plain = run()
    out = run(**own, validation_every=1)
    assert learned(out) == learned(plain) and History.of(out.lora).held_out is None
    assert [r.message for r in caplog.records if "no kernel" in r.message] == [
        "The held-out loss of step 0 failed, and is left out: no kernel"
    ]


def test_the_text_encoder_is_trained_and_held_out_captions_are_encoded_anew(playground):
    data = playground.model, playground.latents, playground.positive
    options = FIELDS | {"clip": playground.clip, "captions": ["an owl"], "steps": 4}
    options |= {"text_learning_rate": 1e-2, "validation_split": 0.25, "validation_every": 2}
    out = train_on(*data, Choices.of(options), quiet)
    losses = History.of(out.lora).held_out.losses
    assert len(losses) == 3 and len(set(losses)) == 3


def test_the_file_says_it(run, own, tmp_path):
    out = run(**own, validation_every=4, picture_losses=True)
    save(tmp_path / "a.safetensors", out.lora)
    loaded = load(tmp_path / "a.safetensors")
    assert History.of(loaded).held_out.steps == [0, 4, 8, 12]
    assert loaded.origin.run.settings["validation_images"] == 2
    assert loaded.origin.run.settings["return_best"] is False


def test_a_picture_has_one_name(playground):
    first, second = playground.latents[:2]
    assert names_of([first, second, first]) == ["1", "2", "1"]
    batch = {"samples": torch.zeros(3, 8, 8, 8)}
    assert names_of([batch, batch]) == ["1", "2", "3"] * 2
    named = [{"samples": torch.zeros(1, 8, 8, 8), "lora2_picture": "a.png"} for _ in range(2)]
    assert names_of([*named, first]) == ["a.png", "a.png", "2"]
    assert names_of([None]) == names_of([{"samples": 3}]) == []


def test_crops_of_a_picture_are_held_out_together(nodes, playground, folder, monkeypatch):
    (folder / "0.txt").write_text("an owl, blue", encoding="utf-8")
    fields = {"folder": "owl", "resolution": 32, "flip": True, "crops": 2}
    inputs = nodes["LoRA2Dataset"].define_schema().inputs
    defaults = {f.id: f.default for f in inputs if getattr(f, "default", None) is not None}
    given = defaults | {k: v for k, v in fields.items() if k in defaults or k == "folder"}
    latents, *_ = (
        nodes["LoRA2Dataset"].execute(**given, clip=playground.clip, vae=playground.vae).result
    )
    names = names_of(latents)
    assert set(names) == {f"{i}.png" for i in range(4)} and len(names) > 4
    settings = Choices.of({"validation_split": 0.25}).validation
    assert settings.trained(latents) == sum(name != "2.png" for name in names)


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"return_best": True}, "return_best needs a held-out loss"),
        ({"validation_split": 0.95}, "split is 0.95: give a number from 0 to 0.9"),
        ({"validation_split": 0.9}, "split 0.9 of 4 different pictures leaves none"),
        ({"validation_every": -1}, "every is -1"),
        ({"validation_latents": []}, "latents of LoRA2 Validation Options have no captions"),
        ({"validation_positive": []}, "positive of LoRA2 Validation Options has no pictures"),
        ({"validation_latents": [], "validation_positive": []}, "Of the validation: There are no"),
    ],
)
def test_bad_input_is_one_sentence(run, monkeypatch, options: dict, sentence: str):
    def begun(*_, **__):
        raise AssertionError("training began on bad input")

    monkeypatch.setattr(setup, "Run", begun)
    with pytest.raises(ValueError, match=sentence) as error:
        run(**options)
    assert "\n" not in str(error.value) and str(error.value).endswith(".")


def test_the_node_gives_what_is_connected(nodes, playground):
    node = nodes["LoRA2ValidationOptions"]
    fields = {"split": [0.2], "every": [5], "return_best": [True], "picture_losses": [True]}
    (options,) = node.execute(**fields).result
    assert options == {
        "validation_split": 0.2, "validation_every": 5, "return_best": True, "picture_losses": True,
    }  # fmt: skip
    (options,) = node.execute(
        **fields, latents=playground.latents, positive=playground.positive, options=[options]
    ).result
    settings = Choices.of(options).validation
    assert settings.validation_latents is playground.latents and settings.used


def test_it_costs_two_percent_of_a_run(run, monkeypatch):
    """At its defaults, counted in forward passes."""
    passes, real = [], held_out.losses_of
    monkeypatch.setattr(
        held_out,
        "losses_of",
        lambda i, draw, *a: passes.append(len(draw.examples)) or real(i, draw, *a),
    )
    steps = 60
    run(steps=steps, validation_split=0.1)
    assert 0 < sum(passes) <= max(8, 0.02 * steps * FIELDS["batch_size"] * 2.5)
