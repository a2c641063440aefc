"""What a run whose values were broken goes back to."""

import pytest
import torch

from lora2_core.training.last_good import LastGood
from lora2_core.training.run import Run
from lora2_core.training.run_state import captured
from tests.training.test_checkpoint import fresh, go


@torch.no_grad()
def broken(run: Run) -> None:
    """All that is trained becomes NaN, as an optimizer can do it."""
    run.adapters.rate_parameter.fill_(torch.nan)
    for component in run.adapters.components.values():
        component.lora_up.fill_(torch.nan)
        component.lora_down.fill_(torch.nan)


def values(run: Run) -> list[torch.Tensor]:
    state = captured(run)["adapters"]
    tensors = [*state["lora_up"].values(), *state["lora_down"].values(), state["rates"]]
    return [tensor.detach().clone() for tensor in tensors]


@pytest.mark.parametrize("mode", ["adaptive", "fixed", "paper"])
@pytest.mark.parametrize("steps", [0, 3])
def test_it_is_what_it_was_and_can_be_trained_again(mode: str, steps: int):
    run, loss = fresh(mode)
    go(run, loss, steps)
    before, last_good = values(run), LastGood(run)
    assert not last_good.restore()
    broken(run)
    assert last_good.restore() and last_good.step == steps
    assert all(a.equal(b) for a, b in zip(values(run), before, strict=True))
    for component in run.adapters.components.values():
        component.lora_up.data += 1  # memory of its own for each value
