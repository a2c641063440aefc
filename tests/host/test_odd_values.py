"""Values that are allowed and seldom meant are named before the first step, and no others."""

import pytest
import torch

from lora2_core.host.training.choices import Choices
from lora2_core.host.training.odd_values import odd_values, of_learning_rate
from lora2_core.host.training.previews import Preview

FOUR = [{"samples": torch.zeros(3, 4, 8, 8)}, {"samples": torch.zeros(1, 4, 8, 8)}]
USUAL = {"steps": 100, "learning_rate": 1e-4, "mode": "fixed", "target_rank": 4, "max_rank": 8}


def told(latents=FOUR, **choices) -> list[str]:
    return list(odd_values(Choices.of(USUAL | choices), latents))


@pytest.mark.parametrize(
    ("choices", "named"),
    [
        ({"batch_size": 5}, "batch_size is above the number of pictures"),
        ({"learning_rate": 0.1}, "learning_rate is very high"),
        ({"learning_rate": 10.0}, "learning_rate is very high"),
        ({"learning_rate": 1.0, "optimizer": "adam"}, "learning_rate is very high"),
        ({"learning_rate": 1.0, "optimizer": "adafactor"}, "learning_rate is very high"),
        ({"learning_rate": 1e-4, "optimizer": "sgd"}, "sgd hardly learns"),
        ({"checkpoint_every": 101}, "no checkpoint is written"),
        ({"adapter_every": 101}, "no file is written"),
        ({"previews": (Preview([], None, preview_every=101),)}, "only the start and the end"),
    ],
)
def test_an_odd_value_is_named(choices: dict, named: str) -> None:
    (sentence,) = told(**choices)
    assert named in sentence


@pytest.mark.parametrize(
    "choices",
    [
        {"batch_size": 4},
        {"learning_rate": 5e-3},
        {"learning_rate": 0.0, "optimizer": "sgd"},  # the run says it
        {"learning_rate": 1.0, "optimizer": "sgd"},
        {"learning_rate": 0.01, "optimizer": "adafactor"},
        {"checkpoint_every": 100, "adapter_every": 100},
        {"previews": (Preview([], None, preview_every=100),)},
    ],
)
def test_usual_values_are_not(choices: dict) -> None:
    assert told(**choices) == []


@pytest.mark.parametrize("latents", [[], None, [{}], [{"samples": 1}], ["latent"], FOUR[0]])
def test_faults_of_latents_are_left_to_the_run(latents: object) -> None:
    assert told(latents) == []


def test_prodigy_finds_the_step_size_itself() -> None:
    """Its package may be missing, so no run is made."""
    assert not list(of_learning_rate("prodigy", 1.0))
    for rate in (1e-4, 100.0):
        (sentence,) = of_learning_rate("prodigy", rate)
        assert "set learning_rate to 1" in sentence
