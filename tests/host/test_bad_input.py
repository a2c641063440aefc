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
        "init": "paper",
        "tolerance": 0.02,
        "attention_weight": 0.0,
    }


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
