"""Optimizer and loss options through the nodes: nothing changes by default, all of it arrives."""

import json
from dataclasses import replace

import comfy.model_management
import pytest
import torch

from lora2_core import RankSettings, TrainSettings, load, save
from lora2_core.host.training import setup
from lora2_core.host.training.choices import Choices
from lora2_core.host.training.run import train_on
from lora2_core.training import optimizers
from lora2_core.training.loss import LossSettings

FIELDS = {"steps": 4, "learning_rate": 1e-2, "mode": "fixed", "target_rank": 2, "batch_size": 2}


def defaults(node) -> dict:
    inputs = [field for field in node.define_schema().inputs if field.id != "options"]
    return {field.id: field.default for field in inputs}


@pytest.mark.parametrize(
    "name", ["LoRA2OptimizerOptions", "LoRA2LossOptions", "LoRA2RegularizationOptions"]
)
def test_the_defaults_are_what_happens_without_the_node(nodes, name: str):
    (options,) = nodes[name].execute(**defaults(nodes[name])).result
    assert Choices.of({**options, **FIELDS}) == Choices.of(FIELDS)


def test_every_field_reaches_its_settings(nodes):
    optimizer = {
        "optimizer": "sgd", "schedule": "cosine", "warmup_steps": 2, "weight_decay": 0.5,
        "beta1": 0.8, "beta2": 0.99, "max_norm": 1.0, "ema": 0.9,
        "loraplus_lr_ratio": 4.0,
    }  # fmt: skip
    loss = {
        "weighting": "min_snr", "gamma": 3.0, "huber": 0.2, "noise_offset": 0.05,
        "sampling": "low_noise", "min_timestep": 0.1, "max_timestep": 0.9,
    }  # fmt: skip
    (first,) = nodes["LoRA2OptimizerOptions"].execute(**optimizer).result
    (both,) = nodes["LoRA2LossOptions"].execute(**loss, options=first).result
    (chain,) = nodes["LoRA2TargetOptions"].execute(targets="attn2", options=both).result
    run = Choices.of({**chain, **FIELDS})
    assert run.training == TrainSettings(steps=4, learning_rate=1e-2, **optimizer)
    assert run.loss == LossSettings(**loss)
    assert run.rank == RankSettings(mode="fixed", target_rank=2)
    assert (run.target.targets, run.batch_size, run.checkpointing) == ("attn2", 2, "auto")


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"warmup_steps": 5}, "warmup_steps 5 is more than the run's 2 steps"),
        ({"optimizer": "prodigy"}, "prodigy needs the package prodigyopt"),
        ({"optimizer": "lion"}, "optimizer is 'lion': choose adamw"),
        ({"min_timestep": 0.8, "max_timestep": 0.2}, "min_timestep 0.8 is not below max_timestep"),
        (
            {"optimizer": "prodigy", "loraplus_lr_ratio": 16.0},
            "loraplus_lr_ratio is 16, but optimizer prodigy finds one learning rate for all",
        ),
        ({"loraplus_lr_ratio": 0.0}, "loraplus_lr_ratio is 0.0: give a number from 0.01 to 1000"),
        ({"ema": 1.0}, "ema is 1.0: give a number from 0 to 0.99999"),
        ({"gamma": float("nan")}, "gamma is nan"),
        ({"colour": "red"}, "options hold 'colour', which no setting has"),
    ],
)
def test_bad_options(nodes, playground, monkeypatch, options: dict, sentence: str):
    def begun(*_, **__):
        raise AssertionError("training began on bad input")

    monkeypatch.setattr(setup, "Run", begun)
    monkeypatch.setattr(optimizers, "find_spec", lambda package: None)
    fields = {
        "model": [playground.model], "latents": playground.latents,
        "positive": playground.positive, "steps": [2], "batch_size": [1], "learning_rate": [1e-3],
        "mode": ["adaptive"], "target_rank": [4], "budget_mb": [0.0], "max_rank": [8], "seed": [0],
    }  # fmt: skip
    with pytest.raises(ValueError, match=sentence) as error:
        nodes["LoRA2Train"].execute(**fields, options=[options])
    assert "\n" not in str(error.value) and str(error.value).endswith(".")


def trained(playground, on_step=lambda step: None, **options):
    data = playground.model, playground.latents, playground.positive
    return train_on(*data, Choices.of({**FIELDS, **options}), on_step)


def test_all_of_it_trains_and_the_file_says_so(playground, tmp_path):
    options = {
        "mode": "adaptive", "optimizer": "sgd", "schedule": "cosine", "warmup_steps": 2,
        "max_norm": 1.0, "ema": 0.9, "weighting": "min_snr", "huber": 0.5, "noise_offset": 0.05,
        "sampling": "high_noise", "loraplus_lr_ratio": 4.0, "rank_dropout": 0.1,
    }  # fmt: skip
    out = trained(playground, **options)
    assert out.stopped_by is None and len(out.losses) == 4
    save(tmp_path / "a.safetensors", out.lora)
    origin = load(tmp_path / "a.safetensors").origin
    assert {k: origin.run.settings[k] for k in options} == options
    expected = {
        "ss_optimizer": "SGD(weight_decay_a_run=1.5,momentum=0.9)", "ss_lr_scheduler": "cosine",
        "ss_lr_warmup_steps": "2", "ss_max_grad_norm": "1.0", "ss_min_snr_gamma": "5.0",
        "ss_noise_offset": "0.05", "ss_loss_type": "huber", "ss_huber_c": "0.5",
    }  # fmt: skip
    assert {k: origin.file.metadata.get(k) for k in expected} == expected
    arguments = json.loads(origin.file.metadata["ss_network_args"])
    assert arguments["loraplus_lr_ratio"] == "4.0" and arguments["rank_dropout"] == "0.1"


def test_a_plain_run_says_what_it_used(playground, tmp_path):
    save(tmp_path / "a.safetensors", trained(playground).lora)
    metadata = load(tmp_path / "a.safetensors").origin.file.metadata
    assert metadata["ss_optimizer"] == "AdamW(weight_decay_a_run=1.5,betas=(0.9, 0.999))"
    assert metadata["ss_lr_scheduler"] == "late" and metadata["ss_loss_type"] == "l2"
    assert not {"ss_min_snr_gamma", "ss_noise_offset", "ss_huber_c"} & set(metadata)
    assert "loraplus_lr_ratio" not in metadata["ss_network_args"]


def test_cancelling_keeps_the_running_mean(playground, monkeypatch):
    made, attach, seen = [], setup.attach, []
    monkeypatch.setattr(setup, "attach", lambda *a, **k: made.append(attach(*a, **k)) or made[0])

    def interrupt(step) -> None:
        component = next(iter(made[0].components.values()))
        seen.append(component.lora_up.detach().clone())
        if step.index == 3:
            raise comfy.model_management.InterruptProcessingException

    out = trained(playground, interrupt, ema=0.99)
    assert isinstance(out.stopped_by, comfy.model_management.InterruptProcessingException)
    first, second, third = seen  # weighed by decays of 2/11, 3/12 and 4/13
    mean = (4 * (first / 4 + 3 * second / 4) + 9 * third) / 13
    (name, component) = next(iter(made[0].components.items()))
    torch.testing.assert_close(component.lora_up.detach(), mean)
    update = (mean @ component.lora_down.detach()).cpu()
    torch.testing.assert_close(out.lora.layers[name].delta(), update, rtol=1e-3, atol=1e-5)


def test_weightings_are_refused_before_a_flow_model_is_loaded(playground, monkeypatch):
    import comfy.model_base
    from comfy.model_base import ModelType

    flow = comfy.model_base.model_sampling(playground.model.model.model_config, ModelType.FLOW)
    model = playground.model.clone()
    model.add_object_patch("model_sampling", flow)
    run = replace(Choices.of(FIELDS), loss=LossSettings(weighting="debiased"))
    with pytest.raises(ValueError, match="neither of eps nor of v prediction"):
        train_on(model, playground.latents, playground.positive, run, lambda step: None)
