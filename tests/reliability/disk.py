"""Figure 7: a disk that fails at every call of a write."""

from __future__ import annotations

import builtins
import errno
import os
import resource
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import lora2_core as lora2
from lora2_core import atomic
from lora2_core.host.training.checkpoint_files import folder_of
from tests.reliability.figures import Figure
from tests.reliability.trainings import Trainings, stop_at
from tests.toys import random_lora

ERRORS = (errno.ENOSPC, errno.EACCES, errno.EXDEV, errno.EIO)
CALLS = ("open", "write", "flush", "fsync", "replace", "read_bytes", "fsync folder")


class Failing:
    """A file whose `write` or `flush` fails, the write half way."""

    def __init__(self, file, call: str, error: int):
        self.file, self.call, self.error = file, call, error

    def __enter__(self) -> Failing:
        self.file.__enter__()
        return self

    def __exit__(self, *raised: object) -> None:
        self.file.__exit__(*raised)

    def __getattr__(self, name: str) -> object:
        return getattr(self.file, name)

    def write(self, data: bytes) -> int:
        if self.call == "write":
            self.file.write(data[: len(data) // 2])
            raise OSError(self.error, os.strerror(self.error))
        return self.file.write(data)

    def flush(self) -> None:
        if self.call == "flush":
            raise OSError(self.error, os.strerror(self.error))
        self.file.flush()


@contextmanager
def failing(call: str, error: int) -> Iterator[None]:
    """A call of write_atomic fails."""

    def fail(*_: object, **__: object) -> None:
        raise OSError(error, os.strerror(error))

    def opened(path: object, mode: str = "r") -> object:
        if "x" in mode and call == "open":
            fail()
        file = builtins.open(path, mode)  # noqa: SIM115 (the caller closes it)
        return Failing(file, call, error) if "x" in mode else file

    fsync, times = os.fsync, []

    def synced(descriptor: int) -> None:
        times.append(1)
        if (call == "fsync" and len(times) == 1) or (call == "fsync folder" and len(times) == 2):
            fail()
        fsync(descriptor)

    before = os.replace, Path.read_bytes
    atomic.open, os.fsync = opened, synced
    if call == "replace":
        os.replace = fail
    if call == "read_bytes":
        Path.read_bytes = fail
    try:
        yield
    finally:
        del atomic.open
        os.fsync, (os.replace, Path.read_bytes) = fsync, before


@contextmanager
def full_after(size: int) -> Iterator[None]:
    """No file of this process may grow beyond a size: the system's own error, half way."""
    before, handler = resource.getrlimit(resource.RLIMIT_FSIZE), signal.getsignal(signal.SIGXFSZ)
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, handler)


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def failed_saves(folder: Path) -> tuple[int, list[str]]:
    """(cases, what went wrong): each call of a save fails in each way, and the file grows no
    further than each of some sizes.
    """
    path, wrong, cases = folder / "a.safetensors", [], 0
    old, new = (random_lora(seed=seed).rotated() for seed in (1, 2))
    lora2.save(path, old)
    before = contents(folder)

    def attempt(what: str, fault: Callable) -> None:
        nonlocal cases
        cases += 1
        try:
            with fault:
                lora2.save(path, new)
            wrong.append(f"{what}: no error")
        except OSError as error:
            if not str(error):
                wrong.append(f"{what}: an error without a word")
        if contents(folder) != before and what.split(",")[0] != "fsync folder":
            wrong.append(f"{what}: the old file or its folder is another")
        lora2.load(path)
        lora2.save(path, old)
        before.update(contents(folder))

    for call in CALLS:
        for error in ERRORS:
            attempt(f"{call}, {errno.errorcode[error]}", failing(call, error))
    for size in range(0, len(before[path.name]), 500):
        attempt(f"full after {size}", full_after(size))
    return cases, wrong


def failed_checkpoints(trainings: Trainings, seed: int) -> tuple[int, list[str]]:
    """(cases, what went wrong): a training whose disk fails goes on, and removes no checkpoint."""
    wrong, cases = [], 0
    for call in CALLS[:-1]:
        for error in ERRORS:
            cases += 1
            name = f"disk{seed}-{cases}"
            options = {"checkpoint_every": 3, "checkpoint_name": name, "keep_last": 1}
            part = trainings(stop_at(6), **options)
            before = contents(folder_of(name))
            with failing(call, error):
                rest = trainings(**options, resume=part.checkpoint)
            after = contents(folder_of(name))
            if rest.stopped_by is not None or len(rest.losses) != 12:
                wrong.append(f"{call}, {errno.errorcode[error]}: the run ended")
            lost = {k for k in before if after.get(k) != before[k]}
            if lost and call not in ("fsync",):  # the first write of two failed
                wrong.append(f"{call}, {errno.errorcode[error]}: {lost} lost")
    return cases, wrong


def figure_7(trainings: Trainings, folder: Path, seed: int) -> Figure:
    saves, wrong = failed_saves(folder)
    runs, more = failed_checkpoints(trainings, seed)
    wrong += more
    for fault in wrong[:20]:
        print(f"  {fault}")
    measured = "ENOSPC, EACCES, EXDEV and EIO at each call of a write, and a file that can't grow, "
    measured += f"{saves} saves and {runs} trainings: {len(wrong)} times the old file changed, no "
    measured += "error was seen, or something was removed"
    return Figure(7, measured, not wrong)
