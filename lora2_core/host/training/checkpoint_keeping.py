"""Keeps the state of a run: writes a checkpoint now and then, and takes a run up from one."""

from __future__ import annotations

import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from ...checks import check_range
from ...saying import log
from ...training.checkpoint import Card, encode, resume
from ...training.run import Run, Step
from .checkpoint_files import (
    file_of,
    folder_for,
    folder_of,
    latest,
    listed_name,
    next_order,
    write,
)
from .examples import Example

NONE, LATEST = "none", "latest of this name"
# what is compared of the pictures when a run is taken up
COMPARED_EXAMPLES = 64  # pictures
COMPARED_VALUES = 8  # of each tensor of an example
NEAR = {"rtol": 0.05, "atol": 0.1}  # what encoding the same pictures again on a GPU may change


def check_resume(resume: str) -> None:
    """Raises ValueError where a checkpoint is asked for by name that does not exist."""
    if resume not in (NONE, LATEST):
        file_of(resume)


@dataclass(frozen=True)
class KeepSettings:
    """Holds when a run's state is written, and from which state a run starts.

    checkpoint_every: steps from one checkpoint to the next; 0 for never.
    keep_last: how many of a run's checkpoints stay.
    checkpoint_name: name of the folder in output/lora2/checkpoints.
    resume: a checkpoint as the list names it, LATEST of the name (from the beginning where there is
        none), or NONE.
    """

    checkpoint_every: int = 0
    keep_last: int = 2
    checkpoint_name: str = "run"
    resume: str = NONE

    def __post_init__(self) -> None:
        check_range("every", self.checkpoint_every, 0, 1_000_000, integer=True)
        check_range("keep_last", self.keep_last, 1, 1000, integer=True)
        folder_of(self.checkpoint_name)

    @property
    def used(self) -> bool:
        """Returns whether checkpoints are written or read."""
        return self.checkpoint_every > 0 or self.resume != NONE

    def check(self) -> None:
        """Raises ValueError where the checkpoint does not exist, or none could be written."""
        if self.checkpoint_every > 0:
            folder_for(self.checkpoint_name)
        check_resume(self.resume)

    def start(self) -> Path | None:
        """Returns the checkpoint to go on from, None for the beginning."""
        if self.resume == NONE:
            return None
        return latest(self.checkpoint_name) if self.resume == LATEST else file_of(self.resume)


class CheckpointKeeper:
    """Takes a fresh run up from a checkpoint, where the settings say so, and writes checkpoints of
    it.

    `facts`: everything that must be the same for a run to go on, in plain values. `pictures`: some
    values of what is trained on (`sampled_values`). Raises ValueError where the checkpoint doesn't
    fit.
    """

    def __init__(self, settings: KeepSettings, run: Run, facts: Mapping, pictures: list):
        self.settings, self.run, self.facts, self.pictures = settings, run, facts, pictures
        self.id = uuid.uuid4().hex
        self.name: str | None = None  # of the newest checkpoint, as the list calls it
        if (path := settings.start()) is not None:
            card = resume(run, path, facts)
            if (number := first_difference(card.pictures, pictures)) is not None:
                raise ValueError(
                    f"{path.name} belongs to another run: picture {number} or its caption is not "
                    "the same. Train on the same pictures in the same order, or start anew."
                )
            self.id, self.name = card.run, listed_name(path)
            log.info("LoRA2 Train goes on after step %d, from %s.", card.step, self.name)
        self.resumed_after = len(run.losses)  # steps; 0: the run begins anew
        self.written = self.moment

    @property
    def moment(self) -> tuple[int, int]:
        """Returns what tells one state of the run from another."""
        return len(self.run.losses), self.run.bad_steps

    def after(self, step: Step) -> None:
        """Writes a checkpoint where one is due."""
        every = self.settings.checkpoint_every
        if every > 0 and step.index % every == 0:
            self.write()

    def rescue(self) -> None:
        """Writes the state in which a run ended early; inside an update it has none."""
        if (
            self.settings.checkpoint_every > 0
            and self.run.between_steps
            and self.moment != self.written
        ):
            self.write()

    def write(self) -> None:
        """Writes a checkpoint. A full disk or memory is no reason to lose the run: it goes on, and
        the log says so.
        """
        step = len(self.run.losses)
        try:
            folder = folder_for(self.settings.checkpoint_name)
            order = next_order(folder)
            card = Card.of(self.run, self.id, order, self.facts, self.pictures)
            path = write(encode(self.run, card), card, folder, self.settings.keep_last)
        except (OSError, ValueError, MemoryError, RuntimeError) as error:
            # RuntimeError: torch has too little memory
            reason = str(error) or "too little memory"
            log.error("The checkpoint of step %d is not written: %s", step, reason)
            return
        self.name, self.written = listed_name(path), self.moment


def sampled_values(examples: Sequence[Example]) -> list[list[float]]:
    """Returns some values of the tensors of some examples, evenly spread: enough to tell other
    pictures from them, whatever encoding again changes.
    """
    step = max(1, -(-len(examples) // COMPARED_EXAMPLES))
    rows = []
    for example in examples[::step]:
        conditions = [getattr(c, "cond", None) for _, c in sorted(example.conditions.items())]
        tensors = [example.latent, example.weights, *conditions]
        values = [spread_values(t) for t in tensors if torch.is_tensor(t) and t.numel()]
        rows.append([float(f"{v:.5g}") for v in torch.cat(values).tolist()])
    return rows


def spread_values(tensor: torch.Tensor) -> torch.Tensor:
    """Returns up to COMPARED_VALUES values of a tensor, evenly spread: fp32 on the CPU."""
    flat = tensor.detach().reshape(-1)
    return flat[:: max(1, len(flat) // COMPARED_VALUES)][:COMPARED_VALUES].float().cpu()


def first_difference(there: list, here: list) -> int | None:
    """Returns the number of the first picture that differs, None where none does."""
    for number, (old, new) in enumerate(zip(there, here, strict=False), 1):
        alike = len(old) == len(new) and torch.allclose(
            torch.tensor(old, dtype=torch.float64), torch.tensor(new, dtype=torch.float64), **NEAR
        )
        if not alike:
            return number
    return None if len(there) == len(here) else min(len(there), len(here)) + 1
