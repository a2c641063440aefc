"""Gradient accumulation and epochs on the real ModelPatcher."""

import sys

import pytest
import torch

from lora2_core import load, save
from lora2_core.host.training.choices import Choices
from lora2_core.host.training.epochs import choices_with_epochs
from lora2_core.host.training.loan import on_loan
from lora2_core.host.training.objective import by_shape, loss_of, make_draw, make_draws
from lora2_core.host.training.run import train_on
from tests.host.examples import examples_of
from tests.host.kept import bytes_of, keep, quiet, stop_at
from tests.host.killed import FIELDS
from tests.tiers import fast

PARTS = "gradient_accumulation_steps"


def smaller(latents: list[dict]) -> list[dict]:
    """The same pictures with a row of two less."""
    return [{"samples": latent["samples"][..., :-2, :]} for latent in latents]


def trained(playground, latents=None, on_step=quiet, **options):
    data = playground.model, latents or playground.latents, playground.positive
    return train_on(*data, Choices.of(FIELDS | options), on_step)


@pytest.mark.parametrize("mode", fast(["fixed", "adaptive", "paper"], "fixed", "paper"))
def test_four_of_one_are_one_of_four(playground, mode: str):
    """The same pictures, noise and levels, and the same adapter to 1e-6 of its size."""
    options = {"mode": mode, "learning_rate": 1e-3, "steps": 4, "optimizer": "sgd"}
    whole = trained(playground, batch_size=4, **options)
    parts = trained(playground, batch_size=1, **options, **{PARTS: 4})
    assert parts.losses == pytest.approx(whole.losses, rel=1e-5)
    for name, layer in whole.lora.layers.items():
        wanted, found = layer.delta(), parts.lora.layers[name].delta()
        assert float((found - wanted).norm()) <= 1e-6 * max(1.0, float(wanted.norm()))


@pytest.mark.parametrize("prior", [False, True])
@pytest.mark.parametrize("shapes", ["one shape", "two shapes"])
def test_the_gradient_is_that_of_the_mean_over_all_pictures(playground, shapes, prior: bool):
    """To 1e-6, against each picture alone; however the shapes lie."""
    from lora2_core.host.training.accumulated import make_parts
    from lora2_core.training.accumulation import accumulate
    from lora2_core.training.loss_scale import LossScale

    settings = Choices.of({"noise_offset": 0.1}).loss
    latents = playground.latents
    if shapes == "two shapes":
        latents = [*smaller(latents[:1]), *latents[1:]]
    with on_loan(playground.model) as inner:
        examples = examples_of(playground.model, inner, latents, playground.positive)
        others = examples[2:] if prior else []
        weight = inner.diffusion_model.middle_block[1].transformer_blocks[0].attn2.to_q.weight
        weight.requires_grad_(True)
        for seed in range(3):
            rest = (0.7, 2, 3, {}, settings, None)
            parts = make_parts(inner, examples, others, *rest)(torch.Generator().manual_seed(seed))
            weight.grad = None
            loss, _ = accumulate(parts, LossScale(False), lambda: None)
            loss.backward()
            generator, wanted, gradient = torch.Generator().manual_seed(seed), 0.0, 0.0
            for kind, factor in ((examples, 1.0), (others, 0.7)):
                if not kind:
                    continue
                draws = make_draws(inner, kind, 2, 3, settings)(generator)
                single = [d.part(slice(i, i + 1)) for d in draws for i in range(len(d.examples))]
                assert len(single) == 6
                for draw in single:
                    value = factor / 6 * loss_of(inner, draw, {}, settings)
                    wanted += float(value.detach())
                    gradient = gradient + torch.autograd.grad(value, weight)[0]
            assert float(loss.detach()) == pytest.approx(wanted, rel=1e-5)
            assert float((weight.grad - gradient).norm() / gradient.norm()) < 1e-5
            assert sum(part.share for part in parts) == pytest.approx(1)
        weight.grad = None
        weight.requires_grad_(False)


def test_pictures_of_one_shape_are_drawn_as_one_batch(playground):
    with on_loan(playground.model) as inner:
        examples = examples_of(playground.model, inner, playground.latents, playground.positive)
        one = make_draw(inner, examples, 6)(torch.Generator().manual_seed(5))
        parts = make_draws(inner, examples, 2, 3)(torch.Generator().manual_seed(5))
    assert [len(part.examples) for part in parts] == [2, 2, 2]
    assert torch.equal(torch.cat([p.noise for p in parts]), one.noise)
    assert torch.equal(torch.cat([p.sigma for p in parts]), one.sigma)
    assert [e for p in parts for e in p.examples] == one.examples


def test_every_picture_is_drawn_equally_often_whatever_its_shape(playground):
    latents = [*smaller(playground.latents[:1]), *playground.latents[1:]]
    with on_loan(playground.model) as inner:
        examples = examples_of(playground.model, inner, latents, playground.positive)
        draws, counts = make_draws(inner, examples, 2, 2), [0] * 4
        generator = torch.Generator().manual_seed(0)
        for _ in range(20):
            found = draws(generator)
            assert all(len(by_shape(draw.examples)) == 1 for draw in found)
            for example in (e for draw in found for e in draw.examples):
                counts[next(i for i, e in enumerate(examples) if e is example)] += 1
    assert counts == [20] * 4, "four of four pictures, each once a step"


def test_a_stopped_run_goes_on_to_the_same_bytes(playground, name):
    options = {PARTS: 3, "batch_size": 1}
    whole = trained(playground, **options)
    part = trained(playground, on_step=stop_at(7), **options, **keep(name))
    rest = trained(playground, **options, **keep(name, resume=part.checkpoint))
    assert rest.resumed_after == 7 and bytes_of(rest) == bytes_of(whole)
    with pytest.raises(ValueError, match=PARTS):
        trained(playground, batch_size=1, **keep(name, resume=part.checkpoint))


def test_it_goes_together_with_the_rest(playground, tmp_path):
    """A prior, a text encoder, an attention loss and gradient checkpointing."""
    options = {
        PARTS: 2,
        "prior_latents": smaller(playground.latents), "prior_positive": playground.positive,
        "prior_captions": ["an owl"], "clip": playground.clip, "captions": ["a red owl"],
        "checkpointing": "on", "mode": "paper", "attention_weight": 0.1, "steps": 2,
    }  # fmt: skip
    out = trained(playground, **options)
    assert out.stopped_by is None and torch.tensor(out.losses).isfinite().all()
    save(tmp_path / "a.safetensors", out.lora)
    origin = load(tmp_path / "a.safetensors").origin
    assert origin.file.metadata["ss_gradient_accumulation_steps"] == "2"
    assert any(n.startswith("lora_te") for n in out.lora.layers)


def test_a_plain_run_says_nothing_of_it(playground):
    assert PARTS not in trained(playground, steps=1).lora.origin.run.settings


@pytest.mark.parametrize(
    ("epochs", "options", "steps"),
    [
        (0, {}, 12), (3, {"batch_size": 1}, 12), (3, {"batch_size": 5}, 3), (1, {PARTS: 3}, 1),
        (10, {"batch_size": 1, "validation_split": 0.25}, 30),
        (10, {"batch_size": 1, "warmup_steps": 35}, 40),
    ],
)  # fmt: skip
def test_epochs_say_how_often_each_picture_is_seen(playground, epochs, options, steps: int):
    choices = choices_with_epochs(FIELDS | options, epochs, playground.latents)
    assert choices.training.steps == steps
    assert choices == Choices.of(FIELDS | options | {"steps": steps})


@pytest.mark.parametrize(
    ("epochs", "options", "sentence"),
    [
        (-1, {}, "epochs is -1: give a whole number"),
        (2.5, {}, "epochs is 2.5: give a whole number"),
        (100_000, {"batch_size": 1, "copies": 20}, "which is 8000000 steps for 80 pictures"),
        (1, {PARTS: 0}, "gradient_accumulation_steps is 0"),
        (1, {"warmup_steps": 30}, "warmup_steps 30 is more than the run's 2 steps"),
    ],
)
def test_wrong_lengths_are_one_sentence(playground, epochs, options: dict, sentence: str):
    options = dict(options)
    copies = options.pop("copies", 1)
    batches = [{"samples": torch.zeros(copies, 8, 8, 8)} for _ in range(4)]
    with pytest.raises(ValueError, match=sentence) as error:
        choices_with_epochs(FIELDS | options, epochs, batches)
    assert "\n" not in str(error.value)


def test_the_nodes_pass_them_on(nodes, playground, monkeypatch):
    from comfyui_lora2.nodes import train

    seen = []

    def stop(model, latents, positive, choices, *_, **__):
        seen.append(choices)
        raise ValueError("enough.")

    monkeypatch.setattr(sys.modules[train.RunView.__module__], "train_on", stop)
    node = nodes["LoRA2MemoryOptions"]
    (options,) = node.execute(checkpointing="auto", **{PARTS: 2}).result
    (plain,) = node.execute(checkpointing="auto").result
    assert plain[PARTS] == 1, "an older workflow does not have the field"
    fields = {
        "model": [playground.model], "latents": playground.latents,
        "positive": playground.positive, "steps": [7], "batch_size": [1], "learning_rate": [1e-3],
        "mode": ["fixed"], "target_rank": [4], "budget_mb": [0.0], "max_rank": [8], "seed": [0],
    }  # fmt: skip
    for more in ({}, {"epochs": [0]}, {"epochs": [5]}):
        with pytest.raises(ValueError, match="enough"):
            nodes["LoRA2Train"].execute(**fields, options=[options], **more)
    assert [c.training.steps for c in seen] == [7, 7, 10]
    assert {c.pictures_a_step for c in seen} == {2}
