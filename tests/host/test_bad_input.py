"""Bad input to the nodes: one sentence with the value and the remedy, before anything is
trained.
"""

import folder_paths
import pytest
import torch

import lora2_core.host.run as run

ARGUMENTS = {
    "steps": [2], "batch_size": [1], "learning_rate": [1e-3], "mode": ["adaptive"],
    "target_rank": [4], "budget_mb": [0.0], "max_rank": [8], "seed": [0],
}  # fmt: skip


@pytest.fixture
def untouched(monkeypatch):
    """Training must not have begun."""

    def begun(*_, **__):
        raise AssertionError("training began on bad input")

    monkeypatch.setattr(run, "Run", begun)


def with_nan(latent: dict) -> dict:
    samples = latent["samples"].clone()
    samples[0, 0, 0, 0] = float("nan")
    return {"samples": samples}


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
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
    if change.get("latents") == "nan":
        change = {"latents": [with_nan(playground.latents[0])]}
    with pytest.raises(ValueError, match=sentence) as error:
        nodes["LoRA2Train"].execute(**(good | change))
    assert "\n" not in str(error.value)


def test_options_chain(nodes):
    (first,) = nodes["LoRA2TargetOptions"].execute("attn2").result
    (both,) = (
        nodes["LoRA2RankOptions"].execute(0.8, 0, "paper", 0.02, -1.0, 0.0, -1.0, first).result
    )
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
    plain, changed = run.HostRun.of({}), run.HostRun.of(first)
    assert changed != plain
    (last,) = node.execute(**defaults(node), options=first).result
    assert run.HostRun.of(last) == plain
    (again,) = node.execute(**defaults(node, **changes), options=last).result
    assert run.HostRun.of(again) == changed


def test_a_text_that_says_auto_is_a_text(nodes):
    (options,) = nodes["LoRA2TargetOptions"].execute("auto", only_blocks="auto").result
    chosen = run.HostRun.of(options).target
    assert (chosen.targets, chosen.only_blocks) == ("auto", "auto")


def test_a_missing_file(nodes, playground):
    with pytest.raises(ValueError, match="no file 'gone.safetensors' in the loras folder"):
        nodes["LoRA2Load"].execute(playground.model, "gone.safetensors")


def test_a_foreign_file(nodes, playground, tmp_path, monkeypatch):
    from safetensors.torch import save_file

    monkeypatch.setattr(folder_paths, "get_folder_paths", lambda kind: [str(tmp_path)])
    save_file({"model.embedding.weight": torch.zeros(2, 2)}, tmp_path / "checkpoint.safetensors")
    with pytest.raises(
        ValueError, match="checkpoint.safetensors: model.embedding.weight belongs to no LoRA pair"
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
