"""Bad input to the nodes: one sentence with the value and the remedy, before anything is
trained.
"""

import folder_paths
import pytest
import torch

from lora2_core.host.training import setup
from lora2_core.host.training.choices import Choices

ARGUMENTS = {
    "steps": [2], "batch_size": [1], "learning_rate": [1e-3], "mode": ["adaptive"],
    "target_rank": [4], "budget_mb": [0.0], "max_rank": [8], "seed": [0],
}  # fmt: skip


@pytest.fixture
def untouched(monkeypatch):
    """Training must not have begun."""

    def begun(*_, **__):
        raise AssertionError("training began on bad input")

    monkeypatch.setattr(setup, "Run", begun)


def with_nan(latent: dict) -> dict:
    samples = latent["samples"].clone()
    samples[0, 0, 0, 0] = float("nan")
    return {"samples": samples}


def told(positive: list, number: int, *, cross=None, more: tuple = (), **facts) -> list:
    """The captions, one of them changed."""
    (own, known), *_ = positive[number - 1]
    entry = [own if cross is None else cross(own), known | facts]
    return [*positive[: number - 1], [entry, *more], *positive[number:]]


def nan_in(tensor: torch.Tensor) -> torch.Tensor:
    changed = tensor.clone()
    changed.view(-1)[-1] = float("nan")
    return changed


CAPTIONS = [
    (lambda p: told(p, 2, cross=nan_in), "Caption 2 holds NaN or infinite"),
    (lambda p: told(p, 3, pooled_output=torch.full((1, 64), torch.inf)), "Caption 3 holds NaN"),
    (lambda p: told(p[:1], 1, cross=nan_in), "Caption 1 holds NaN"),
    (lambda p: told(p, 4, cross=lambda c: c[..., :-1]), "suit this model.*caption 4 is"),
    (lambda p: told(p, 2, cross=lambda c: c.repeat(1, 1, 2)), "suit this model.*caption 2 is"),
    (lambda p: told(p, 3, pooled_output=torch.zeros(1, 7)), "suit this model.*aption 3.* 7"),
    (lambda p: told(p, 1, pooled_output=None), "suit this model.*aption 1"),
    (lambda p: told(p, 2, cross=lambda c: c[:, :0]), "Caption 2 is empty"),
    (lambda p: told(p, 2, cross=lambda c: c.repeat(2, 1, 1)), "Caption 2 holds a batch of 2 texts"),
    (lambda p: [[e for given in p for e in given]], "Caption 1 holds 4 texts, combined or sched"),
    (lambda p: told(p, 3, more=tuple(p[0])), "Caption 3 holds 2 texts"),
    (lambda p: [[], *p[1:]], "3 captions|Caption 1 is empty"),
    (lambda p: [[[p[0][0][0][0], p[0][0][1]]]], "positive doesn't suit this model"),
    (lambda p: told(p, 2, area=(1, 1, 0, 0)), "Caption 2 is limited to an area"),
    (lambda p: told(p, 2, mask=torch.ones(1, 8, 8)), "Caption 2 is limited to a mask"),
    (lambda p: told(p, 2, control=object()), "Caption 2 is limited to a ControlNet"),
    (lambda p: told(p, 2, gligen=("position", None, [])), "Caption 2 is limited to GLIGEN"),
    (lambda p: told(p, 2, hooks=object()), "Caption 2 is limited to hooks"),
    (lambda p: told(p, 2, start_percent=0.2), "Caption 2 is limited to a range of steps"),
    (lambda p: told(p, 2, start_percent=0.0, end_percent=0.9), "limited to a range of steps"),
    (lambda p: told(p, 2, clip_start_percent=0.5, clip_end_percent=1.0), "a range of steps"),
]


@pytest.mark.parametrize(("change", "sentence"), CAPTIONS)
def test_captions(nodes, playground, untouched, change, sentence):
    """Of the pictures and of the prior alike."""
    positive, model = change(playground.positive), [playground.model]
    good = ARGUMENTS | {"model": model, "latents": playground.latents}
    prior = {"prior_latents": playground.latents, "prior_positive": positive}
    with pytest.raises(ValueError, match=sentence) as error:
        nodes["LoRA2Train"].execute(**good, positive=positive)
    assert "\n" not in str(error.value)
    with pytest.raises(ValueError, match=f"prior.*({sentence}|wide)"):
        nodes["LoRA2Train"].execute(**good, positive=playground.positive, options=[prior])


def test_limits_that_limit_nothing_are_trained(nodes, playground):
    facts = {"start_percent": 0.0, "end_percent": 1.0, "strength": 0.5, "mask": None}
    positive = told(playground.positive, 1, **facts)
    latents = [latent | {"noise_mask": torch.ones(1, 1, 8, 8)} for latent in playground.latents]
    good = ARGUMENTS | {"model": [playground.model], "latents": latents, "positive": positive}
    nodes["LoRA2Train"].execute(**good)


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"latents": [{"samples": torch.zeros(0, 8, 8, 8)}]}, "LATENT 1 holds no picture"),
        ({"latents": [{"samples": torch.zeros(2, 8, 0, 8)}]}, "LATENT 1 holds no picture"),
        ({"latents": [{"samples": torch.zeros(())}]}, "no LATENT"),
        ({"latents": "masked"}, "LATENT 2 has a noise mask.*Data Options"),
        ({"learning_rate": [0.0]}, "learning_rate is 0, so nothing would be learned"),
        ({"learning_rate": [1e-30]}, "learning_rate is 1e-30, so nothing would be learned"),
        ({"budget_mb": [0.0003]}, "budget_mb is 0.0003, but one rank of the largest layer"),
        ({"latents": []}, "no latents to train on"),
        ({"positive": []}, "positive is empty"),
        ({"positive": "two"}, "4 latents but 2 captions"),
        ({"latents": [{"samples": torch.zeros(1, 4, 8, 8)}]}, "Latent 1 has 4 channels, .* 8"),
        ({"latents": "nan"}, "Latent 1 holds NaN"),
        ({"latents": ["no latent"]}, "no LATENT"),
        ({"max_rank": [2]}, "max_rank 2 is below target_rank 4"),
        ({"learning_rate": [float("nan")]}, "learning_rate is nan"),
        ({"steps": [0]}, "steps is 0"),
        ({"batch_size": [0]}, "batch_size is 0"),
        ({"mode": ["magic"]}, "mode is 'magic': choose"),
        ({"budget_mb": [float("inf")]}, "budget_mb is inf"),
        ({"seed": [-1]}, "seed is -1"),
        ({"options": [{"targets": "to_q("}]}, "targets is not a regular expression"),
        ({"options": [{"targets": "no_such_layer"}]}, "'no_such_layer' match no Linear or Conv2d"),
        ({"options": [{"quantile": 1.5}]}, "quantile is 1.5"),
    ],
)
def test_train(nodes, playground, untouched, change, sentence):
    good = ARGUMENTS | {
        "model": [playground.model],
        "latents": playground.latents,
        "positive": playground.positive,
    }
    if change.get("positive") == "two":
        change = {"positive": playground.positive[:2]}
    if change.get("latents") == "masked":
        one, two, *rest = playground.latents
        change = {"latents": [one, two | {"noise_mask": torch.zeros(1, 1, 64, 64)}, *rest]}
    if change.get("latents") == "nan":
        change = {"latents": [with_nan(playground.latents[0])]}
    with pytest.raises(ValueError, match=sentence) as error:
        nodes["LoRA2Train"].execute(**(good | change))
    assert "\n" not in str(error.value)


def test_options_chain(nodes):
    (first,) = nodes["LoRA2TargetOptions"].execute(targets="attn2").result
    node = nodes["LoRA2RankOptions"]
    changes = {"quantile": 0.8, "init": "paper", "tolerance": 0.02, "attention_weight": 0.0}
    (both,) = node.execute(**defaults(node, **changes), options=first).result
    assert first["targets"] == "attn2"
    assert both == first | {
        "quantile": 0.8,
        "start_rank": None,
        "init": "paper",
        "tolerance": 0.02,
        "rank_weight": None,
        "attention_weight": 0.0,
        "rate_learning_rate": None,
    }


def defaults(node, **changes: object) -> dict:
    """The fields of an option node as it is put into a workflow, but for the changes."""
    fields = [f for f in node.GET_SCHEMA().inputs if getattr(f, "default", None) is not None]
    return {f.id: f.default for f in fields} | changes


@pytest.mark.parametrize(
    ("name", "changes"),
    [
        ("LoRA2RankOptions", {"quantile": 0.7, "start_rank": 8, "init": "paper",
                              "tolerance": 0.5, "rank_weight": 1.0, "attention_weight": 2.0,
                              "rate_learning_rate": 0.1}),
        ("LoRA2OptimizerOptions", {"optimizer": "sgd", "schedule": "cosine", "weight_decay": 0.0,
                                   "beta1": 0.5, "beta2": 0.6, "max_norm": 1.0, "ema": 0.9,
                                   "warmup_steps": 1}),
        ("LoRA2LossOptions", {"weighting": "min_snr", "gamma": 1.0, "sampling": "high_noise"}),
        ("LoRA2MemoryOptions", {"checkpointing": "on"}),
        ("LoRA2TargetOptions", {"targets": "to_q", "layers": "all linear", "only_blocks": "up"}),
    ],
)  # fmt: skip
def test_a_later_node_also_sets_defaults_back(nodes, name, changes):
    """A run is then as without any options."""
    node = nodes[name]
    (first,) = node.execute(**defaults(node, **changes)).result
    # new nodes say `auto` for the layers, which a run without options doesn't
    plain = Choices.of({"layers": "auto"} if name == "LoRA2TargetOptions" else {})
    changed = Choices.of(first)
    assert changed != plain
    (last,) = node.execute(**defaults(node), options=first).result
    assert Choices.of(last) == plain
    (again,) = node.execute(**defaults(node, **changes), options=last).result
    assert Choices.of(again) == changed


def test_a_text_that_says_auto_is_a_text(nodes):
    (options,) = nodes["LoRA2TargetOptions"].execute(targets="auto", only_blocks="auto").result
    chosen = Choices.of(options).target
    assert (chosen.targets, chosen.only_blocks) == ("auto", "auto")


def test_a_missing_file(nodes, playground):
    with pytest.raises(ValueError, match="no file 'gone.safetensors' in the loras folder"):
        nodes["LoRA2Load"].execute(playground.model, "gone.safetensors")


def test_a_foreign_file(nodes, playground, tmp_path, monkeypatch):
    from safetensors.torch import save_file

    monkeypatch.setattr(folder_paths, "get_folder_paths", lambda kind: [str(tmp_path)])
    save_file({"model.embedding.weight": torch.zeros(2, 2)}, tmp_path / "checkpoint.safetensors")
    with pytest.raises(
        ValueError, match="checkpoint.safetensors: model.embedding.weight belongs to no LoRA layer"
    ):
        nodes["LoRA2Load"].execute(playground.model, "checkpoint.safetensors")
    (tmp_path / "text.safetensors").write_text("hello")
    with pytest.raises(ValueError, match="text.safetensors is no safetensors file"):
        nodes["LoRA2Load"].execute(playground.model, "text.safetensors")


@pytest.mark.parametrize(
    "prefix", ["../outside", "/etc/lora", "lora2/../../x", "", "folder/", "a\0b"]
)
def test_a_prefix_that_leaves_the_loras_folder(nodes, prefix):
    answer = nodes["LoRA2Save"].validate_inputs(filename_prefix=prefix)
    assert isinstance(answer, str) and "filename_prefix" in answer


def test_a_folder_that_cannot_be_made(nodes):
    from pathlib import Path

    root = Path(folder_paths.get_folder_paths("loras")[0])
    root.mkdir(parents=True, exist_ok=True)
    (root / "a_file").write_text("in the way")
    answer = nodes["LoRA2Save"].validate_inputs(filename_prefix="a_file/lora")
    assert isinstance(answer, str) and "can't be made" in answer
