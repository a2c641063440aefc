"""Figure 6: processes that are killed (SIGKILL) at random moments of saves and of trainings.

Each victim is forked from a process that has torch and the host already, so it starts at once.
"""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable
from pathlib import Path
from random import Random

import safetensors

import lora2_core as lora2
from lora2_core.atomic import sweep
from lora2_core.host.checkpoints import cards_in, folder_of, latest, prepare
from lora2_core.host.keeping import LATEST
from tests.reliability.figures import Figure
from tests.reliability.trainings import Trainings, bytes_of
from tests.toys import random_lora

INTERVAL, STEPS = 2, 60


def killed(work: Callable[[Callable[[int], None]], None], seconds: float) -> list[int] | None:
    """Runs work(tell) in a forked process, killed so many seconds after it first told a number.
    Returns the numbers that it told; None when it ended by itself.
    """
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(reader)
        code = 1
        try:
            work(lambda number: os.write(writer, number.to_bytes(4, "little")))
            code = 0
        finally:
            os._exit(code)
    os.close(writer)
    told = os.read(reader, 4)  # waits for the first
    time.sleep(seconds)
    os.kill(child, signal.SIGKILL)
    while part := os.read(reader, 65536):
        told += part
    os.close(reader)
    _, status = os.waitpid(child, 0)
    if os.WIFEXITED(status) and os.WEXITSTATUS(status):
        raise RuntimeError("the process failed by itself")
    numbers = [int.from_bytes(told[i : i + 4], "little") for i in range(0, len(told), 4)]
    return numbers if os.WIFSIGNALED(status) else None


def killed_saves(folder: Path, count: int, seed: int) -> tuple[int, list[str]]:
    """(kills that left a half-written file, what is wrong) of kills while an adapter is saved over
    an older one.
    """
    random, wrong, halves = Random(seed), [], 0
    path = folder / "a.safetensors"
    sizes = [{"l": (64 * n, 64, 8, None)} for n in range(1, 9)]
    versions = [random_lora(shapes, n).rotated() for n, shapes in enumerate(sizes)]
    ranks = [lora.layers["l"].up.shape for lora in versions]
    lora2.save(path, versions[0])

    def work(tell: Callable[[int], None]) -> None:
        for number in range(10**6):
            lora2.save(path, versions[number % len(versions)], dtype="fp32")
            tell(number)

    for number in range(count):
        told = killed(work, random.uniform(0, 0.03))
        try:
            shape = lora2.load(path).layers["l"].up.shape
        except (ValueError, OSError) as error:
            wrong.append(f"save {number}: {error}")
            continue
        newest = {ranks[n % len(ranks)] for n in (told[-1], told[-1] + 1)}
        if shape not in newest:
            wrong.append(f"save {number}: an older file than was told")
        halves += len(list(folder.iterdir())) > 1
        sweep(folder)  # as at the next start
        if [p.name for p in folder.iterdir()] != [path.name]:
            wrong.append(f"save {number}: {[p.name for p in folder.iterdir()]} stay")
    return halves, wrong


def killed_trainings(trainings: Trainings, name: str, count: int, seed: int) -> list[str]:
    """What is wrong after kills during trainings that write checkpoints and go on from the last."""
    random, wrong = Random(seed), []
    options = {"steps": STEPS, "checkpoint_every": INTERVAL, "checkpoint_name": name}
    whole = bytes_of(trainings(steps=STEPS))
    folder = folder_of(name)

    def work(tell: Callable[[int], None]) -> None:
        trainings(lambda step: tell(step.index), **options, resume=LATEST)

    finished = number = 0
    while number < count:
        before = (path := latest(name)) and cards_in(folder)[path].step or 0
        told = killed(work, random.uniform(0, 0.5))
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
        prepare(name)  # as at the next start
        if list(folder.glob(".*")):
            wrong.append(f"training {number}: orphans stay")
    print(f"  {finished} trainings came to their end through kills")
    return wrong


def figure_6(trainings: Trainings, folder: Path, count: int, seed: int) -> Figure:
    halves, wrong = killed_saves(folder, count, seed)
    wrong += killed_trainings(trainings, "killed", count, seed)
    for fault in wrong[:20]:
        print(f"  {fault}")
    measured = f"{count} kills during saves ({halves} left a half-written file), {count} during "
    measured += f"training, safetensors {safetensors.__version__}: {len(wrong)} corrupt or lost "
    measured += "files, more than an interval lost, orphans, or other adapters in the end"
    return Figure(6, measured, not wrong and count >= 200)
