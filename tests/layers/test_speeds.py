"""Some layers may have a learning rate of their own, as a text encoder has beside its model."""

import pytest
import torch

import lora2_core as lora2
from lora2_core.training.run import Run
from tests.toys import Planted
from tests.training.stopping import whole_and_resumed

SPEEDS = {"l1": 0.25}


def run_of(speeds=SPEEDS, mode: str = "fixed", steps: int = 12, **chosen) -> tuple[Planted, Run]:
    model = Planted([1, 4, 2], width=16)
    settings = lora2.RankSettings(mode=mode, target_rank=4, max_rank=16)
    adapters = lora2.attach(model, "l", settings, speeds=speeds)
    return model, Run(adapters, lora2.TrainSettings(steps, 1e-2, **chosen))


def first_moves(speeds) -> list[torch.Tensor]:
    """How far lora_up of each layer moves in one step of plain gradient descent."""
    chosen = {"optimizer": "sgd", "beta1": 0.0, "weight_decay": 0.0}
    model, run = run_of(speeds, steps=1, **chosen)
    next(run.steps(model.loss))
    return [c.lora_up.detach() for c in run.adapters.components.values()]


def test_a_layer_moves_as_its_learning_rate_says():
    for name, slow, plain in zip(
        ("l0", "l1", "l2"), first_moves(SPEEDS), first_moves({}), strict=True
    ):
        torch.testing.assert_close(slow, plain * SPEEDS.get(name, 1.0))


def test_all_groups_follow_the_schedule_and_decay_alike_over_the_run():
    model, run = run_of(steps=40)
    rates = []
    for _ in run.steps(model.loss):
        groups = run.optimizer.weight_groups
        rates.append([group["lr"] for group in groups])
        assert [len(group["params"]) for group in groups] == [4, 2]
    assert [b / a for a, b in rates] == pytest.approx([0.25] * 40)
    assert rates[0][0] == 1e-2 and rates[-1][0] < 1e-3
    for number in range(2):
        decay = run.optimizer.weight_groups[number]["weight_decay"]
        assert decay * sum(rate[number] for rate in rates) == pytest.approx(1.5)


@pytest.mark.parametrize("mode", ["adaptive", "paper", "fixed"])
@pytest.mark.parametrize("optimizer", ["adamw", "sgd"])
def test_a_checkpoint_goes_on_to_the_same_bytes(mode: str, optimizer: str, tmp_path):
    chosen = {"mode": mode, "optimizer": optimizer, "steps": 30, "ema": 0.9}
    whole, rest = whole_and_resumed(lambda: run_of(**chosen), tmp_path / "step.safetensors")
    pairs = zip(rest.optimizer.weights, whole.optimizer.weights, strict=True)
    assert all(torch.equal(one, other) for one, other in pairs)


def test_ranks_are_learned_at_every_speed():
    """Exchanged parameters stay in their group."""
    model, run = run_of(mode="adaptive", steps=120)
    *_, last = run.steps(model.loss)
    assert set(last.ranks.values()) != {4}
    component = run.adapters.components["l1"]
    theirs = run.optimizer.weight_groups[1]["params"]
    assert theirs[0] is component.lora_up and theirs[1] is component.lora_down
