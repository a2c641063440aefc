"""The stored results: one line for each run, and the tables that are made of them."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable
from dataclasses import asdict
from pathlib import Path
from zlib import crc32

from tests.benchmarks.options.arms import ARMS, SEEDS, Arm, Run, tuning
from tests.benchmarks.ranks.pictures import TEST, TUNING
from tests.benchmarks.ranks.statistics import Estimate, difference, geometric_mean
from tests.hosting.inprocess import REPOSITORY

FILE = Path(__file__).parent / "results.jsonl"
PAGE = REPOSITORY / "docs" / "options.md"
START, END = "<!-- figures -->", "<!-- end of figures -->"
MEASURES = {
    "background": "loss, unseen backgrounds", "style": "loss, unseen style",
    "moved": "the koala moves by",
}  # fmt: skip


class Rows:
    """The results by run; every new one is a line of the file."""

    def __init__(self, path: Path = FILE):
        self.path = path
        lines = path.read_text().splitlines() if path.is_file() else []
        self.of = {Run(**row["run"]): row["measured"] for row in map(json.loads, lines)}

    def add(self, run: Run, measured: dict[str, float]) -> None:
        """Writes the result of a run."""
        self.of[run] = measured
        with self.path.open("a") as file:
            file.write(json.dumps({"run": asdict(run), "measured": measured}) + "\n")

    def tuned(self, arm: Arm) -> dict[float, float]:
        """Returns the geometric mean of the loss on the tuning subjects by learning rate; inf where
        a run diverged.
        """
        losses = {}
        for rate in arm.rates:
            found = [self.of[run]["background"] for run in tuning(arm, rate) if run in self.of]
            if len(found) == len(TUNING):
                finite = all(map(math.isfinite, found))
                mean = math.exp(sum(map(math.log, found)) / len(found)) if finite else math.inf
                losses[rate] = mean
        return losses

    def rate(self, arm: Arm) -> float | None:
        """Returns the learning rate of an arm; None before it is known."""
        if not arm.rates:
            return self.rate(ARMS[arm.plain])
        losses = self.tuned(arm)
        return min(losses, key=losses.get) if len(losses) == len(arm.rates) else None

    def logs(self, arm: Arm, measure: str) -> dict[tuple[str, int], float]:
        """Returns the logarithms of a measure by test subject and seed."""
        rate = self.rate(arm)
        wanted = [Run(arm.key, rate, s, seed) for s in TEST for seed in SEEDS] if rate else []
        found = {(run.subject, run.seed): self.of[run] for run in wanted if run in self.of}
        return {pair: math.log(row[measure]) for pair, row in found.items()}

    def against_plain(self, arm: Arm, measure: str) -> Estimate:
        """Returns the logarithm of the ratio to the plain arm of the mode."""
        return difference(self.logs(arm, measure), self.logs(ARMS[arm.plain], measure))

    def missing(self, arms: Iterable[Arm], seeds: int, part: tuple[int, int]) -> list[Run]:
        """Returns the runs that are known to be needed; those on the test subjects are, once the
        learning rate is known. part: (i, n) for the i-th of n processes, which always gets the same
        runs.
        """
        arms = list(arms)
        runs = [run for arm in arms for rate in arm.rates for run in tuning(arm, rate)]
        tested = [arm for arm in arms if arm.tested]
        rates = {arm.key: rate for arm in tested if (rate := self.rate(arm)) is not None}
        for seed in SEEDS[:seeds]:
            runs += [Run(key, rate, s, seed) for s in TEST for key, rate in rates.items()]
        mine = [run for run in runs if crc32(str(run).encode()) % part[1] == part[0] - 1]
        return [run for run in mine if run not in self.of]


def report(rows: Rows) -> str:
    """Returns two tables in Markdown: each arm against the plain one of its mode, paired by subject
    and seed, and the learning rates that were tried.
    """
    lines = [
        f"| | {' | '.join(MEASURES.values())} | time of a run | runs |",
        "|---|--:|--:|--:|--:|--:|",
    ]
    for arm in ARMS.values():
        pairs = rows.logs(arm, "background").keys() & rows.logs(ARMS[arm.plain], "background")
        if not pairs:
            continue
        plain = arm.key == arm.plain
        cells = [
            level(rows, arm, m) if plain else change(rows.against_plain(arm, m)) for m in MEASURES
        ]
        seconds = math.exp(rows.against_plain(arm, "seconds").mean)
        lines.append(f"| {arm.key} | {' | '.join(cells)} | {seconds:.2f} × | {len(pairs)} |")
    lines += ["", "| | learning rate: loss on unseen backgrounds of other subjects |", "|---|---|"]
    for arm in ARMS.values():
        losses, best = rows.tuned(arm), rows.rate(arm)
        cells = [f"{rate:g}: {loss:.4f}" for rate, loss in losses.items()]
        cells = [f"**{c}**" if r == best else c for r, c in zip(losses, cells, strict=True)]
        if cells:
            lines.append(f"| {arm.key} | {', '.join(cells)} |")
    return "\n".join(lines)


def written(page: str, rows: Rows) -> str:
    """Returns the page with the tables of these rows."""
    before, rest = page.split(START)
    return f"{before}{START}\n{report(rows)}\n{END}{rest.split(END)[1]}"


def level(rows: Rows, arm: Arm, measure: str) -> str:
    """Returns the geometric mean of a measure."""
    return f"{geometric_mean(rows.logs(arm, measure)):.4f}"


def change(ratio: Estimate) -> str:
    """Returns a ratio as a change in percent, with its 95 % interval if there is one."""
    mean, low, high = (100 * (value - 1) for value in ratio.exp())
    return f"{mean:+.1f} %" + (f" ({low:+.1f} to {high:+.1f})" if math.isfinite(low) else "")
