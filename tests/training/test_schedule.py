"""Learning rates over a run, against torch's own schedulers."""

import pytest
import torch
from torch.optim import lr_scheduler

from lora2_core import TrainSettings
from lora2_core.ranks.modes import MODES
from lora2_core.training.schedule import SCHEDULES, shares

STEPS = 40


def of_torch(make, steps: int) -> list[float]:
    """The learning rate at every step of a scheduler of torch, from 1."""
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], 1.0)
    scheduler, found = make(optimizer), []
    for _ in range(steps):
        found.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step()
    return found


REFERENCES = {
    "constant": lambda o, n: lr_scheduler.ConstantLR(o, 1.0),
    "linear": lambda o, n: lr_scheduler.LinearLR(o, 1.0, 0.0, n),
    "cosine": lambda o, n: lr_scheduler.CosineAnnealingLR(o, n),
    "late": lambda o, n: lr_scheduler.SequentialLR(
        o,
        [lr_scheduler.ConstantLR(o, 1.0), lr_scheduler.LinearLR(o, 1.0, 0.0, n // 2)],
        [n // 2],
    ),
}


@pytest.mark.parametrize("warmup", [0, 1, 8, STEPS])
@pytest.mark.parametrize("schedule", SCHEDULES)
def test_against_torch(schedule: str, warmup: int):
    left = STEPS - warmup
    rising = of_torch(lambda o: lr_scheduler.LinearLR(o, 1 / (warmup + 1), 1.0, warmup), warmup)
    if left % 2 and schedule == "late":
        left -= 1  # torch has no half steps
    falling = of_torch(lambda o: REFERENCES[schedule](o, max(left, 1)), left)
    found = shares(schedule, warmup + left, warmup, 0.5)
    assert found == pytest.approx(rising + falling, abs=1e-9)


@pytest.mark.parametrize(
    ("mode", "chosen", "schedule"),
    [
        ("adaptive", {}, "late"), ("fixed", {}, "late"), ("paper", {}, "constant"),
        ("paper", {"decay": 0.3}, "late"), ("paper", {"schedule": "late"}, "late"),
        ("adaptive", {"schedule": "cosine"}, "cosine"), ("paper", {"schedule": "linear"}, "linear"),
    ],
)  # fmt: skip
def test_every_mode_has_a_schedule_of_its_own(mode: str, chosen: dict, schedule: str):
    settings = TrainSettings(STEPS, 1e-3, **chosen).resolved(MODES[mode])
    assert settings.schedule == schedule
    expected = shares(schedule, STEPS, 0, chosen.get("decay", 0.5))
    assert settings.rates() == pytest.approx([1e-3 * share for share in expected])


def test_a_warmup_longer_than_the_run():
    with pytest.raises(ValueError) as caught:
        TrainSettings(steps=10, warmup_steps=11)
    message = "warmup_steps 11 is more than the run's 10 steps: lower warmup_steps or raise steps."
    assert str(caught.value) == message
    assert len(TrainSettings(10, warmup_steps=10).resolved(MODES["fixed"]).rates()) == 10


@pytest.mark.parametrize("given", [{}, {"schedule": "cosine"}, {"decay": 0.2}, {"warmup_steps": 9}])
def test_settings_that_leave_something_to_the_mode_have_rates_too(given: dict):
    settings = TrainSettings(steps=STEPS, **given)
    assert settings.rates() == settings.resolved(MODES["adaptive"]).rates()
    assert len(settings.rates()) == STEPS
