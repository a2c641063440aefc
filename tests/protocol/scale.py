"""`nox -s scale`: what Ray brings and costs, on worker processes of this machine.

1. A worker killed in the middle of a sweep: nothing finished is lost or repeated, all trials end.
2. Two workers against one, a thread each: throughput on trainings of the playground.
3. A thousand trials that do nothing: what a trial costs beside its own work.

`--short` leaves out the second and does fifty of the third.
"""

from __future__ import annotations

import os
import signal
import sys
import tempfile
import time
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from lora2_core.protocol.dreambooth import read_subjects
from lora2_core.protocol.headless import find_comfyui
from lora2_core.protocol.on_ray import Cluster
from lora2_core.protocol.plan import Plan, Trial, trials
from lora2_core.protocol.table import Table
from lora2_core.protocol.work import Setup, work_off
from tests.hosting.provision import cache_folder
from tests.protocol.data import write_data


@dataclass(frozen=True)
class Sleeper:
    """Trials that take a while and write down which process began and ended them."""

    notes: Path
    seconds: float

    def workshop(self):
        return self.execute

    def execute(self, trial: Trial) -> dict:
        self.note(f"begin {trial.seed} {os.getpid()}")
        time.sleep(self.seconds)
        self.note(f"end {trial.seed} {os.getpid()}")
        return {"dino": trial.seed / 1000}

    def note(self, text: str) -> None:
        with open(self.notes, "a", encoding="utf-8") as file:
            file.write(text + "\n")

    def read(self) -> list[list[str]]:
        if not self.notes.is_file():
            return []
        return [line.split() for line in self.notes.read_text(encoding="utf-8").splitlines()]


def plain(count: int) -> list[Trial]:
    return [Trial("none", "none", seed, "0") for seed in range(count)]


def kill(folder: Path) -> str:
    """Kills the worker that is in the middle of a trial once two trials are finished."""
    sleeper, wanted = Sleeper(folder / "notes.txt", 1.0), plain(8)
    table, killed = Table(folder / "killed.csv"), []
    with Cluster(workers=2) as cluster:

        def results(missing):
            for trial, row in cluster.work(sleeper.workshop, missing):
                yield trial, row
                if len(table.rows) >= 2 and not killed:
                    time.sleep(0.3)  # into the next trial
                    notes = sleeper.read()
                    ended = {seed for what, seed, _ in notes if what == "end"}
                    running = [(s, int(p)) for w, s, p in notes if w == "begin" and s not in ended]
                    killed.append(running[-1])
                    os.kill(running[-1][1], signal.SIGKILL)

        work_off(results, table, wanted)
    seed, process = killed[0]
    begun = [s for what, s, _ in sleeper.read() if what == "begin"]
    again = sorted(s for s in set(begun) if begun.count(s) > 1)
    if set(table.rows) != set(wanted) or again != [seed]:
        raise SystemExit(f"{len(table.rows)} of {len(wanted)} trials, begun again: {again}")
    return (
        f"worker {process} killed in trial {seed}: {len(table.rows)} of {len(wanted)} trials are "
        f"in the table, begun twice: only trial {seed}"
    )


def overhead(folder: Path, count: int) -> str:
    table = Table(folder / "tiny.csv")
    with Cluster(workers=2) as cluster:
        list(cluster.work(nothing, plain(4)))  # the workers have started
        start = time.monotonic()
        work_off(partial(cluster.work, nothing), table, plain(count))
        spent = time.monotonic() - start
    return f"{count} empty trials on 2 workers: {1000 * spent / count:.1f} ms each, table included"


def nothing():
    return lambda trial: {}


def throughput(folder: Path, workers: int, count: int, steps: int) -> float:
    """Trainings of the playground a minute, model and workers started before."""
    methods = {"LoRA 8": {"mode": "fixed", "target_rank": 8, "steps": steps}}
    plan = Plan(
        methods=methods, seeds=tuple(range(100)), resolution=32, prompts=1, images=1,
        training={"batch_size": 4, "learning_rate": 5e-3},
        sampling={"steps": 1, "width": 32, "height": 32},
        dino_folder=str(cache_folder() / "toy/toy-dino"),
    )  # fmt: skip
    data = write_data(folder / "data", ("owl",))
    wanted = trials(plan, read_subjects(data))
    setup = Setup(plan, data, folder / f"out{workers}", find_comfyui(), folder / "base")
    with Cluster(workers=workers) as cluster:
        list(cluster.work(setup.workshop, wanted[: 3 * workers]))  # all have loaded
        start = time.monotonic()
        results = list(cluster.work(setup.workshop, wanted[10 : 10 + count]))
        spent = time.monotonic() - start
    for _, row in results:
        if isinstance(row, Exception):
            raise row
    return 60 * count / spent


def main() -> None:
    short = "--short" in sys.argv
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        print(kill(folder), flush=True)
        print(overhead(folder, 50 if short else 1000), flush=True)
        if not short:
            one, two = (throughput(folder, workers, 12, 60) for workers in (1, 2))
            print(
                f"trainings of the playground a minute, one thread each: {one:.1f} with 1 worker, "
                f"{two:.1f} with 2: {two / one:.2f} times (goal: 1.7 on two free cores)"
            )


if __name__ == "__main__":
    main()
