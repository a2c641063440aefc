"""What the tests of checkpoints share: options, interrupts, and what trainings differ in."""

from __future__ import annotations

import comfy.model_management
import torch

from lora2_core.host.training import setup
from lora2_core.host.training.run import Outcome


def quiet(step) -> None:
    """Nobody listens to the steps."""


def stop_at(last: int, error: type = comfy.model_management.InterruptProcessingException):
    """An interrupt after a step."""

    def on_step(step) -> None:
        if step.index == last:
            raise error

    return on_step


def keep(name: str, every: int = 5, resume: str = "none", keep_last: int = 2) -> dict:
    return {
        "checkpoint_every": every, "checkpoint_name": name, "keep_last": keep_last,
        "resume": resume,
    }  # fmt: skip


def bytes_of(outcome: Outcome) -> tuple:
    """All that two trainings could differ in but the time."""
    tensors = [t.numpy().tobytes() for layer in outcome.lora.layers.values()
               for t in (layer.up, layer.down)]  # fmt: skip
    return (
        tensors,
        outcome.losses,
        outcome.lora.origin.run.history,
        outcome.lora.origin.learned.ranks,
    )


def out_of_memory(count: int, monkeypatch) -> None:
    """At the count-th forward pass."""
    make = setup.make_loss

    def failing(*args):
        loss_fn, calls = make(*args), []

        def loss(generator):
            calls.append(1)
            if len(calls) == count:
                loss_fn(generator)
                raise torch.OutOfMemoryError("out of memory")
            return loss_fn(generator)

        return loss

    monkeypatch.setattr(setup, "make_loss", failing)
