"""Working off trials: what a process needs to do them, and the one after the other here."""

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
    """What a worker is told once: the plan, the data, where pictures and adapters go, and where
    ComfyUI and its models are.
    """

    plan: Plan
    data: Path
    out: Path
    comfyui: Path
    base: Path | None = None

    def workshop(self) -> Execute:
        """Enters ComfyUI and loads the models, once a process."""
        enter(self.comfyui, self.base)
        from .trial import Workshop

        return Workshop(self.plan, self.data, self.out).execute


class Progress:
    """A line in the log for each finished trial, with the time that is left."""

    def __init__(self, total: int):
        self.total, self.done, self.start = total, 0, time.monotonic()

    def tell(self, trial: Trial, row: dict) -> None:
        self.done += 1
        left = (time.monotonic() - self.start) / self.done * (self.total - self.done)
        scores = ", ".join(
            f"{name} {row[name]:.3f}" for name in ("dino", "clip_i", "clip_t") if row.get(name)
        )
        log.info("%d/%d %s: %s; %.0f min left", self.done, self.total, trial.key, scores, left / 60)


def one_by_one(
    workshop: Callable[[], Execute], trials: Iterable[Trial]
) -> Iterator[tuple[Trial, dict | Exception]]:
    """Yields (trial, row) of trials done in this process; the exception of one that failed."""
    execute = workshop()
    for trial in trials:
        try:
            yield trial, execute(trial)
        except Exception as error:  # a trial of hundreds; work_off tells it at once and at the end
            yield trial, error


def work_off(
    results: Callable[[list[Trial]], Iterator[tuple[Trial, dict | Exception]]],
    table: Table,
    wanted: list[Trial],
) -> None:
    """Does the trials that the table lacks; each is on the disk as soon as it is done.

    RuntimeError at the end where some failed: all others are done by then.
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
        progress.tell(trial, row)
    if failed:
        raise RuntimeError(
            f"{len(failed)} of {len(missing)} trials failed, the first is {failed[0]} (see above). "
            "The others are in the table; start again to try them once more."
        )
