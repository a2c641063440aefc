"""LoRA+: lora_up may have another learning rate than lora_down."""

import pytest
import torch

import lora2_core as lora2
from lora2_core.training.groups import groups_of, parameters_of
from lora2_core.training.run import Run
from tests.toys import Planted
from tests.training.stopping import whole_and_resumed

MODES = ["adaptive", "paper", "fixed"]


def run_of(
    mode: str = "fixed", steps: int = 12, speeds=None, rate_learning_rate=None, **chosen
) -> tuple[Planted, Run]:
    model = Planted([1, 4, 2], width=16)
    settings = lora2.RankSettings(
        mode=mode, target_rank=4, max_rank=16, rate_learning_rate=rate_learning_rate
    )
    adapters = lora2.attach(model, "l", settings, speeds=speeds)
    return model, Run(adapters, lora2.TrainSettings(steps, 1e-2, **chosen))


def finished(**chosen) -> Run:
    model, run = run_of(**chosen)
    for _ in run.steps(model.loss):
        pass
    return run


def values(run: Run) -> dict[str, torch.Tensor]:
    return {name: p.detach().clone() for name, p in parameters_of(run.adapters).items()}


def test_every_weight_is_in_one_group():
    speeds = {"l1": 0.5}
    adapters = run_of(speeds=speeds)[1].adapters
    assert groups_of(adapters) == {
        1.0: ["lora_up/l0", "lora_down/l0", "lora_up/l2", "lora_down/l2"],
        0.5: ["lora_up/l1", "lora_down/l1"],
    }
    # lora_up of the slow layer is as fast as lora_down of the others
    assert groups_of(adapters, 2.0) == {
        2.0: ["lora_up/l0", "lora_up/l2"],
        1.0: ["lora_down/l0", "lora_up/l1", "lora_down/l2"],
        0.5: ["lora_down/l1"],
    }


@pytest.mark.parametrize("mode", MODES)
def test_a_ratio_of_one_is_off(mode: str):
    plain, off = finished(mode=mode), finished(mode=mode, loraplus_lr_ratio=1.0)
    assert plain.losses == off.losses


@pytest.mark.parametrize("mode", MODES)
def test_lora_up_moves_so_many_times_as_far(mode: str):
    """One step of plain gradient descent, in all layers; lora_down moves as without."""
    moved = []
    for ratio in (1.0, 8.0):
        chosen = {"optimizer": "sgd", "beta1": 0.0, "weight_decay": 0.0, "schedule": "constant"}
        model, run = run_of(mode, 100, rate_learning_rate=0.0, loraplus_lr_ratio=ratio, **chosen)
        with torch.no_grad():  # at zero, lora_up gives lora_down no gradient
            for component in run.adapters.components.values():
                component.lora_up[:, : component.rank] = 0.1
        before = values(run)
        next(run.steps(model.loss))
        moved.append({n: v - before[n] for n, v in values(run).items() if n != "rates"})
    for name, plain in moved[0].items():
        wanted = plain * (8.0 if name.startswith("lora_up") else 1.0)
        torch.testing.assert_close(moved[1][name], wanted, rtol=1e-2, atol=1e-5)


@pytest.mark.parametrize("optimizer", ["adamw", "sgd"])
def test_both_decay_alike_over_the_run(optimizer: str):
    _, run = run_of(steps=200, loraplus_lr_ratio=16.0, optimizer=optimizer)
    before = {name: v.norm() for name, v in values(run).items() if name.startswith("lora_down")}
    for rate in run.settings.rates():
        run.optimizer.set_learning_rate(rate)
        for parameter in run.optimizer.weights:
            parameter.grad = torch.zeros_like(parameter)
        run.optimizer.step()
    groups = run.optimizer.weight_groups
    assert [group["lr"] for group in groups] == pytest.approx([16 * rate, rate])
    for name, norm in before.items():
        share = float(values(run)[name].norm() / norm)
        assert share == pytest.approx(2.718281828**-1.5, rel=0.02)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("optimizer", ["adamw", "sgd"])
def test_a_checkpoint_goes_on_to_the_same_bytes(mode: str, optimizer: str, tmp_path):
    chosen = {"mode": mode, "optimizer": optimizer, "steps": 30, "loraplus_lr_ratio": 4.0}
    through, rest = whole_and_resumed(lambda: run_of(**chosen), tmp_path / "step.safetensors")
    others = values(through)
    assert all(torch.equal(value, others[name]) for name, value in values(rest).items())


def test_sgd_keeps_the_mean_squares_of_lora_up_alone():
    """The auction reads them, whatever the order of the weights."""
    model, run = run_of("adaptive", 5, optimizer="sgd", loraplus_lr_ratio=4.0)
    next(run.steps(model.loss))
    for name, parameter in parameters_of(run.adapters).items():
        if name != "rates":
            assert ("exp_avg_sq" in run.optimizer.state[parameter]) == name.startswith("lora_up")


@pytest.mark.parametrize("optimizer", ["prodigy", "prodigyopt.Prodigy"])
def test_an_optimizer_with_one_learning_rate_refuses_it(optimizer: str):
    with pytest.raises(ValueError, match="finds one learning rate for all weights: set the ratio"):
        lora2.TrainSettings(optimizer=optimizer, loraplus_lr_ratio=16.0)


@pytest.mark.parametrize("ratio", [0.0, -1.0, 1001.0, float("nan")])
def test_a_ratio_out_of_range_is_one_sentence(ratio: float):
    with pytest.raises(ValueError, match="loraplus_lr_ratio is .*: give a number from 0.01 to"):
        lora2.TrainSettings(loraplus_lr_ratio=ratio)
