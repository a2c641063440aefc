"""LoRA² Checkpoint Options: what doesn't fit is refused in one sentence before any step."""

import pytest
import torch

from lora2_core.host.training.checkpoint_keeping import LATEST, KeepSettings
from lora2_core.host.training.choices import Choices
from lora2_core.host.training.run import train_on
from tests.host.kept import keep, out_of_memory, quiet, stop_at
from tests.host.killed import FIELDS


@pytest.fixture(scope="module")
def kept(playground) -> str:
    """A checkpoint to be refused."""
    data = playground.model, playground.latents, playground.positive
    with torch.inference_mode():
        return train_on(*data, Choices.of(FIELDS | keep("kept")), stop_at(2)).checkpoint


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"steps": 400}, "belongs to another run: steps 12 there, 400 here. Set what differs"),
        ({"learning_rate": 0.1, "seed": 9}, "learning_rate 0.01 there, 0.1 here; seed 3 there, 9"),
        ({"mode": "fixed"}, "mode adaptive there, fixed here"),
        ({"targets": "attn1"}, "belongs to another model: it has a layer diffusion_model"),
        ({"targets": "attn2.to_q"}, r"it has 28 trained layers, and there are 7 here"),
        ({"optimizer": "sgd"}, "optimizer adamw there, sgd here"),
        ({"huber": 0.1}, "huber 0.0 there, 0.1 here"),
        ({"batch_size": 1}, "batch_size 2 there, 1 here"),
    ],
)
def test_another_run_is_refused_before_any_step(train, kept, change: dict, sentence: str):
    with pytest.raises(ValueError, match=sentence) as caught:
        train(stop_at(3, AssertionError), **keep("kept", 0, kept), **change)
    assert "\n" not in str(caught.value) and str(caught.value).endswith(".")


def test_other_pictures_are_refused_and_what_encoding_again_changes_is_not(playground, kept):
    run = Choices.of(FIELDS | keep("kept", 0, kept))
    latents, captions = list(playground.latents), list(playground.positive)
    with pytest.raises(ValueError, match="pictures 4 there, 3 here"):
        train_on(playground.model, latents[:3], captions[:3], run, quiet)
    with pytest.raises(ValueError, match="picture 1 or its caption is not the same"):
        train_on(playground.model, latents[::-1], captions, run, quiet)
    with pytest.raises(ValueError, match="picture 2 or its caption is not the same"):
        other = [captions[0], [[-captions[1][0][0], captions[1][0][1]]], *captions[2:]]
        train_on(playground.model, latents, other, run, quiet)
    near = [{"samples": latent["samples"] * 1.001} for latent in latents]
    assert train_on(playground.model, near, captions, run, quiet).resumed_after == 2


def test_another_base_model_is_refused(playground, kept):
    model = playground.model.clone()
    weight = next(p for n, p in model.model.named_parameters() if n.endswith("to_q.weight"))
    run = Choices.of(FIELDS | keep("kept", 0, kept))
    before = weight.clone()
    weight.mul_(2)
    try:
        with pytest.raises(ValueError, match="base model .* there, .* here"):
            train_on(model, playground.latents, playground.positive, run, quiet)
    finally:
        weight.copy_(before)


def test_the_defaults_are_what_happens_without_the_node(nodes):
    node = nodes["LoRA2CheckpointOptions"]
    inputs = {f.id: f.default for f in node.define_schema().inputs if f.id != "options"}
    (options,) = node.execute(**inputs).result
    assert Choices.of({**options, **FIELDS}) == Choices.of(FIELDS)
    assert not Choices.of(FIELDS).keep.used


def test_every_field_reaches_its_settings_and_the_list_shows_what_is_there(nodes, kept):
    node = nodes["LoRA2CheckpointOptions"]
    (combo,) = (f for f in node.define_schema().inputs if f.id == "resume")
    assert combo.options[:2] == ["none", LATEST] and kept in combo.options
    fields = {"every": 7, "keep_last": 3, "name": "mine", "resume": kept}
    (options,) = node.execute(**fields, options={"targets": "attn2"}).result
    run = Choices.of({**options, "steps": 4})
    assert run.keep == KeepSettings(7, 3, "mine", kept) and run.target.targets == "attn2"


@pytest.mark.parametrize(
    ("inputs", "answer"),
    [
        ({"name": "run", "resume": "none"}, True),
        ({"name": None, "resume": None}, True),
        ({"name": "run", "resume": LATEST}, True),
        ({"name": "../x"}, "name is '../x': give one of letters"),
        ({"resume": "run/gone.safetensors"}, "There is no checkpoint 'run/gone.safetensors' in"),
    ],
)
def test_the_form_is_checked_before_anything_runs(nodes, inputs: dict, answer):
    found = nodes["LoRA2CheckpointOptions"].validate_inputs(**inputs)
    assert found is True if answer is True else found.startswith(answer)


def test_the_error_says_how_to_go_on(nodes, playground, monkeypatch, caplog):
    out_of_memory(3, monkeypatch)
    fields = {
        "model": [playground.model], "latents": playground.latents,
        "positive": playground.positive, "steps": [5], "batch_size": [1], "learning_rate": [1e-3],
        "mode": ["fixed"], "target_rank": [2], "budget_mb": [0.0], "max_rank": [8], "seed": [0],
    }  # fmt: skip
    with pytest.raises(RuntimeError) as caught:
        nodes["LoRA2Train"].execute(**fields, options=[keep("told", 4) | {"checkpointing": "off"}])
    sentence = "To go on from there, choose resume told/step-000002.safetensors in LoRA2 Checkpoint"
    assert sentence in str(caught.value) and sentence in caplog.text
    assert "is saved as lora2/interrupted_" in str(caught.value)
