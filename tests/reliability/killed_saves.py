"""Processes that are killed (SIGKILL) at random moments of saves: that part of figure 6 that needs
no host.

Each victim is forked from a process that has torch already, so it starts at once.
"""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable
from pathlib import Path
from random import Random

import lora2_core as lora2
from lora2_core.atomic import sweep
from tests.toys import random_lora


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
