"""Figure 6: processes that are killed (SIGKILL) at random moments of saves and of trainings."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from random import Random

import safetensors

from lora2_core.host.training.checkpoint_files import cards_in, folder_for, folder_of, latest
from lora2_core.host.training.checkpoint_keeping import LATEST
from tests.reliability.figures import Figure
from tests.reliability.killed_saves import killed, killed_saves
from tests.reliability.trainings import Trainings, bytes_of

INTERVAL, STEPS = 2, 60


def killed_trainings(
    trainings: Trainings, name: str, count: int, seed: int
) -> tuple[int, list[str]]:
    """(trainings that came to their end through kills, what is wrong) of trainings that write
    checkpoints and, when they are killed, go on from the last.
    """
    random, wrong = Random(seed), []
    options = {"steps": STEPS, "checkpoint_every": INTERVAL, "checkpoint_name": name}
    began = time.monotonic()
    whole = bytes_of(trainings(steps=STEPS))
    longest = (time.monotonic() - began) / 3  # so that many kills come between the first and last
    folder = folder_of(name)

    def work(tell: Callable[[int], None]) -> None:
        trainings(lambda step: tell(step.index), **options, resume=LATEST)

    finished = number = 0
    while number < count:
        before = (path := latest(name)) and cards_in(folder)[path].step or 0
        told = killed(work, random.uniform(0, longest))
        number += told is not None
        cards = cards_in(folder)
        published = [p for p in folder.glob("*.safetensors") if not p.name.startswith(".")]
        if len(cards) != len(published):
            wrong.append(f"training {number}: a published file can't be read")
        steps = [card.step for card in cards.values()]
        reached = max(told, default=before) if told else STEPS
        if max(steps, default=0) < max(before, reached - INTERVAL):
            wrong.append(f"training {number}: told step {reached}, kept {steps}")
        if told is None or max(steps, default=0) >= STEPS - 5:
            last = trainings(**options, resume=LATEST)
            if bytes_of(last) != whole:
                wrong.append(f"training {number}: another adapter than the uninterrupted one")
            finished += 1
            for path in folder.iterdir():
                path.unlink()
        folder_for(name)  # as at the next start
        if list(folder.glob(".*")):
            wrong.append(f"training {number}: orphans stay")
    return finished, wrong


def figure_6(trainings: Trainings, folder: Path, count: int, seed: int) -> Figure:
    halves, wrong = killed_saves(folder, count, seed)
    finished, faults = killed_trainings(trainings, "killed", count, seed)
    wrong += faults
    for fault in wrong[:20]:
        print(f"  {fault}")
    measured = f"{count} kills during saves ({halves} left a half-written file), {count} during "
    measured += f"training ({finished} came to their end through them), safetensors "
    measured += f"{safetensors.__version__}: {len(wrong)} corrupt or lost files, more than an "
    measured += "interval lost, orphans, or other adapters in the end"
    return Figure(6, measured, not wrong and count >= 200)
