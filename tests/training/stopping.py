"""A run that stops half-way and goes on from its checkpoint, beside one that never stopped."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from lora2_core.training.checkpoint import Card, encode, resume
from lora2_core.training.run import Run
from tests.toys import Planted

STOP = 17


def whole_and_resumed(make: Callable[[], tuple[Planted, Run]], path: Path) -> tuple[Run, Run]:
    """Returns both runs at their end; checks that their losses are the same."""
    model, whole = make()
    for step in whole.steps(model.loss):
        if step.index == STOP:
            path.write_bytes(encode(whole, Card.of(whole, "run", 0, {})))
    model, rest = make()
    assert resume(rest, path, {}).step == STOP
    for _ in rest.steps(model.loss):
        pass
    assert rest.losses == whole.losses
    return whole, rest
