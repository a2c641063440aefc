"""Keeping a run: its state is written now and then, and an old one is taken up."""

from __future__ import annotations

import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from ...checks import check_range
from ...saying import log
from ...training.checkpoint import Card, encode, resume
from ...training.run import Run
from .checkpoints import file_of, folder_of, latest, listed_name, next_order, prepare, write
from .items import Item

NONE, LATEST = "none", "latest of this name"
PICTURES, VALUES = 64, 8  # that are compared, and values of each of their tensors
NEAR = {"rtol": 0.05, "atol": 0.1}  # what encoding again on a GPU may change


def check_resume(resume: str) -> None:
    """Raises ValueError unless there is such a checkpoint, or none is asked for by name."""
    if resume not in (NONE, LATEST):
        file_of(resume)


@dataclass(frozen=True)
class KeepSettings:
    """When a run's state is written, and from which it starts.

    checkpoint_every: steps from one to the next; 0 for never.
    keep_last: how many of a run's checkpoints stay.
    checkpoint_name: of the folder in output/lora2/checkpoints.
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
        return self.checkpoint_every > 0 or self.resume != NONE

    def check(self) -> None:
        """ValueError when there is no such checkpoint, or none could be written."""
        if self.checkpoint_every > 0:
            prepare(self.checkpoint_name)
        check_resume(self.resume)

    def start(self) -> Path | None:
        """The checkpoint to go on from."""
        if self.resume == NONE:
            return None
        return latest(self.checkpoint_name) if self.resume == LATEST else file_of(self.resume)


class Keeper:
    """Takes up a fresh run where a checkpoint left off, if the settings say so, and writes its
    checkpoints.

    `facts`: everything that must be the same for a run to go on, in plain values; `pictures`: some
    values of what is trained on (`sketch`). ValueError when the checkpoint doesn't fit.
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
        self.first = len(run.losses)
        self.kept = self.moment

    @property
    def moment(self) -> tuple[int, int]:
        """What tells one state of the run from another."""
        return len(self.run.losses), self.run.bad_steps

    def after(self, step: int) -> None:
        """Writes a checkpoint where one is due."""
        every = self.settings.checkpoint_every
        if every > 0 and step % every == 0:
            self.write()

    def rescue(self) -> None:
        """Writes the state in which a run ended early; inside an update there is none."""
        run, changed = self.run, self.moment != self.kept
        if self.settings.checkpoint_every > 0 and run.between_steps and changed:
            self.write()

    def write(self) -> None:
        """A full disk or memory is no reason to lose the run: it goes on, and the log says so."""
        step = len(self.run.losses)
        try:
            folder = prepare(self.settings.checkpoint_name)
            order = next_order(folder)
            card = Card.of(self.run, self.id, order, self.facts, self.pictures)
            path = write(encode(self.run, card), card, folder, self.settings.keep_last)
        except (OSError, ValueError, MemoryError, RuntimeError) as error:  # the last one: torch's
            reason = str(error) or "too little memory"
            log.error("The checkpoint of step %d is not written: %s", step, reason)
            return
        self.name, self.kept = listed_name(path), self.moment


def sketch(items: Sequence[Item]) -> list[list[float]]:
    """Some values of the tensors of some pictures, evenly spread: enough to tell others from them,
    whatever encoding again changes.
    """
    step = max(1, -(-len(items) // PICTURES))
    found = []
    for item in items[::step]:
        conditions = [getattr(c, "cond", None) for _, c in sorted(item.conditions.items())]
        tensors = [item.latent, item.weights, *conditions]
        values = [spread(t) for t in tensors if torch.is_tensor(t) and t.numel()]
        found.append([float(f"{v:.5g}") for v in torch.cat(values).tolist()])
    return found


def spread(tensor: torch.Tensor) -> torch.Tensor:
    """Up to VALUES values, evenly spread: fp32 on the CPU."""
    flat = tensor.detach().reshape(-1)
    return flat[:: max(1, len(flat) // VALUES)][:VALUES].float().cpu()


def first_difference(there: list, here: list) -> int | None:
    """The number of the first picture that is another one, None when none is."""
    for number, (old, new) in enumerate(zip(there, here, strict=False), 1):
        alike = len(old) == len(new) and torch.allclose(
            torch.tensor(old, dtype=torch.float64), torch.tensor(new, dtype=torch.float64), **NEAR
        )
        if not alike:
            return number
    return None if len(there) == len(here) else min(len(there), len(here)) + 1
