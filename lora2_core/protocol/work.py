"""Doing trials: what a process needs for them, and one after the other in this process."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from ..saying import log
from .headless import enter
from .plan import Plan, Trial
from .table import Table

Execute = Callable[[Trial], dict]


@dataclass(frozen=True)
class Setup:
    """Everything that a worker needs: the plan, the folder of data, the folder for pictures and
    adapters, and those of ComfyUI and (base) of its models.
    """

    plan: Plan
    data: Path
    out: Path
    comfyui: Path
    base: Path | None = None

    def workshop(self) -> Execute:
        """Enters ComfyUI, loads the models, and returns the function that executes trials; called
        once in a process.
        """
        enter(self.comfyui, self.base)
        from .trial import Workshop

        return Workshop(self.plan, self.data, self.out).execute


class Progress:
    """The progress of a sweep, with the time that is left."""

    def __init__(self, total: int):
        self.total, self.done, self.start = total, 0, time.monotonic()

    def log(self, trial: Trial, row: dict) -> None:
        """Counts a finished trial and logs a line on it."""
        self.done += 1
        left = (time.monotonic() - self.start) / self.done * (self.total - self.done)
        scores = ", ".join(
            f"{name} {row[name]:.3f}" for name in ("dino", "clip_i", "clip_t") if row.get(name)
        )
        log.info("%d/%d %s: %s; %.0f min left", self.done, self.total, trial.key, scores, left / 60)


def one_by_one(
    workshop: Callable[[], Execute], trials: Iterable[Trial]
) -> Iterator[tuple[Trial, dict | Exception]]:
    """Yields (trial, row) of trials that are done in this process; for a failed one its
    exception.
    """
    execute = workshop()
    for trial in trials:
        try:
            yield trial, execute(trial)
        except Exception as error:  # one trial of hundreds; work_off logs it, and raises at the end
            yield trial, error


def work_off(
    results: Callable[[list[Trial]], Iterator[tuple[Trial, dict | Exception]]],
    table: Table,
    wanted: list[Trial],
) -> None:
    """Does the trials that the table lacks; each is in the table as soon as it is done. Raises
    RuntimeError at the end where some failed; all others are done by then.
    """
    missing = table.missing(wanted)
    if not missing:
        return
    progress, failed = Progress(len(missing)), []
    for trial, row in results(missing):
        if isinstance(row, Exception):
            log.error("%s failed: %s", trial.key, " ".join(str(row).split())[-500:])
            failed.append(trial.key)
            continue
        table.add(trial, row)
        progress.log(trial, row)
    if failed:
        raise RuntimeError(
            f"{len(failed)} of {len(missing)} trials failed, the first is {failed[0]} (see above). "
            "The others are in the table; start again to try them once more."
        )
