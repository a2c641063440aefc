"""A search of trials that take no time, on Ray Tune with two workers of this machine: it stops what
is worse, a killed worker costs its own trial alone, a second start repeats none, and a setting that
fails is told.
"""

from __future__ import annotations

import os
import signal
import tempfile
from dataclasses import dataclass, replace
from pathlib import Path

from lora2_core.protocol.dreambooth import read_subjects
from lora2_core.protocol.on_ray import Cluster
from lora2_core.protocol.on_tune import search_on
from lora2_core.protocol.plan import Plan, Trial, trials
from lora2_core.protocol.search import Search
from lora2_core.protocol.table import Table
from tests.protocol.data import SUBJECTS, write_data

SEARCH = Search({"target_rank": {"uniform": [1, 100]}}, count=16, first=1, reduction=2)


@dataclass(frozen=True)
class Fake:
    """Trials whose score is the rank; one dies once, one fails."""

    plan: Plan
    notes: Path
    killed: Trial | None = None
    failing: str = ""

    def workshop(self):
        return self.execute

    def execute(self, trial: Trial) -> dict:
        begun = self.begun()
        with open(self.notes, "a", encoding="utf-8") as file:
            file.write(trial.key + "\n")
        if trial == self.killed and trial.key not in begun:
            os.kill(os.getpid(), signal.SIGKILL)
        if trial.method == self.failing:
            raise RuntimeError("the loss is not finite")
        return {"dino": self.plan.choices(trial.method)["target_rank"] / 100, "megabytes": 1.0}

    def begun(self) -> list[str]:
        there = self.notes.is_file()
        return self.notes.read_text(encoding="utf-8").splitlines() if there else []


def check(told: bool, sentence: str) -> None:
    if not told:
        raise SystemExit(f"not so: {sentence}")
    print(sentence, flush=True)


def main() -> None:
    with tempfile.TemporaryDirectory() as scratch, Cluster(workers=2) as cluster:
        run(Path(scratch), cluster)


def run(folder: Path, cluster: Cluster) -> None:
    plan = SEARCH.applied(Plan(methods={"no adapter": None}, dino_folder="none"))
    wanted = trials(plan, read_subjects(write_data(folder / "data", pictures=1)))
    *_, second, best = sorted(plan.methods, key=lambda name: plan.choices(name)["target_rank"])
    killed = next(t for t in wanted if t.method == best and t.subject == SUBJECTS[2])
    fake, told = Fake(plan, folder / "notes.txt", killed, failing=second), ""
    table = Table(folder / "trials.csv")
    try:
        search_on(cluster, SEARCH, fake.workshop, table, wanted)
    except RuntimeError as error:
        told = str(error)
    keys = [t.key for t in wanted if t.method == second]
    tried = {t.method for t in table.rows}
    failed = told.startswith("1 of 16 settings failed") and keys[0] in told
    check(failed and tried == set(plan.methods) - {second}, "1 setting failed, 15 have rows")
    ranking = SEARCH.ranking(table.rows, list(plan.methods))
    check(ranking[0] == best, "the best setting is found")
    part = f"{len(table.rows)} of {len(wanted)} trials were enough"
    check(len(table.rows) < 0.8 * len(wanted), part)
    begun = fake.begun()
    twice = [key for key in set(begun) if begun.count(key) > 1]
    check(twice == [killed.key], "1 worker killed, its trial alone begun twice")
    check(not (folder / "tune").exists(), "Tune's notes are gone")

    mended = replace(fake, failing="")
    search_on(cluster, SEARCH, mended.workshop, table, wanted)
    more = set(fake.begun()[len(begun) :])  # what is stopped depends on which worker is first
    check(
        more & set(keys) and not more & set(begun) - set(keys),
        "a second start: what failed is tried",
    )


if __name__ == "__main__":
    main()
