"""Learning rates: for every method and rank the one with the least loss on unseen backgrounds of
the tuning subjects.

Every method has the same steps; a best rate at the edge of its grid moves the edge.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from tests.benchmarks.ranks import rivals
from tests.benchmarks.ranks.pictures import TUNING
from tests.benchmarks.ranks.runs import ATTENTION, FLOW, PLAYGROUND, Cut, Ledger, Run

RATES = "rates.json"
GRID = (1e-2, 2e-2)
PAPER_GRID = (3.2e-4, 1e-3, 3.2e-3)
WIDE_GRID = (1e-2, 1.4e-2, 2e-2)
FLOW_GRID = (1e-2, 2e-2)
MOST_MOVES = 2  # of each edge
FLOW_MOVES = 1  # on the second base
PAPER_RANK = 8
PLAIN_RANKS = (1, 2, 4, 8, 16, 32, 64)
ADAPTIVE_RANKS = (1, 2, 4, 8, 16, 32)
WIDE = "all in blocks"  # the layers of adaptive mode
WIDE_RANKS = (1, 2, 4)
FLOW_RANKS = {"fixed": (2, 8, 32), "adaptive": (2,)}  # of attention alone
FLOW_WIDE_RANKS = (1, 2)
Work = Callable[[list[Run]], None]


@dataclass(frozen=True)
class Class:
    """What gets a learning rate of its own: a method at a rank, on a kind of layers of a base."""

    method: str
    rank: int
    layers: str = ATTENTION
    base: str = PLAYGROUND

    @property
    def name(self) -> str:
        where = "" if self.layers == ATTENTION else f", {self.layers}"
        which = "" if self.base == PLAYGROUND else f", {self.base}"
        return f"{self.method} {self.rank}{where}{which}"

    @property
    def grid(self) -> tuple[float, ...]:
        if self.method in rivals.GRIDS:
            return rivals.GRIDS[self.method]
        if self.base == FLOW:
            return FLOW_GRID
        if self.layers != ATTENTION:
            return WIDE_GRID
        return PAPER_GRID if self.method == "paper" else GRID

    @property
    def moves(self) -> int:
        if self.base == FLOW:
            return FLOW_MOVES
        return 0 if self.method in rivals.GRIDS else MOST_MOVES

    @property
    def cuts(self) -> tuple[Cut, ...]:
        """What is cut from the adapter; the loss of the last cut decides."""
        return ((self.method, float(rivals.TUNED_RANK)),) if self.method == rivals.THRESHOLD else ()

    def runs(self, rate: float, steps: int, subjects: tuple[str, ...] = TUNING) -> list[Run]:
        return [
            Run(
                subject,
                self.method,
                self.rank,
                rate,
                steps=steps,
                own=0,
                cuts=self.cuts,
                layers=self.layers,
                base=self.base,
            )
            for subject in subjects
        ]


CLASSES = (
    *(Class("fixed", rank) for rank in PLAIN_RANKS),
    Class("paper", PAPER_RANK),
    *(Class("adaptive", rank) for rank in ADAPTIVE_RANKS),
)
WIDE_CLASSES = tuple(
    Class(method, rank, WIDE) for method in ("fixed", "adaptive") for rank in WIDE_RANKS
)
RIVAL_CLASSES = tuple(
    Class(m, rivals.trained_rank(m, rivals.TUNED_RANK), WIDE) for m in rivals.METHODS
)
FLOW_CLASSES = (
    *(Class(m, rank, WIDE, FLOW) for rank in FLOW_WIDE_RANKS for m in ("fixed", "adaptive")),
    *(Class(m, rank, base=FLOW) for m, ranks in FLOW_RANKS.items() for rank in ranks),
)
EVERY_CLASS = (*CLASSES, *WIDE_CLASSES, *RIVAL_CLASSES, *FLOW_CLASSES)


def mean_loss(rows: list[dict]) -> float:
    """Geometric mean of the loss on unseen backgrounds; inf where a run diverged."""
    logs = [math.log(row["background"]) for row in rows]
    mean = math.exp(sum(logs) / len(logs))
    return mean if math.isfinite(mean) else math.inf


def next_rates(
    losses: dict[float, float], grid: tuple[float, ...], moves: int = MOST_MOVES
) -> list[float]:
    """The rates to try next: a step further where the best so far is an edge."""
    tried = sorted(losses)
    best = min(tried, key=losses.get)
    below, above = sum(r < grid[0] for r in tried), sum(r > grid[-1] for r in tried)
    if best == tried[-1] and above < moves:
        return [two_digits(best * grid[-1] / grid[-2])]
    if best == tried[0] and below < moves:
        return [two_digits(best * grid[-2] / grid[-1])]
    return []


def two_digits(rate: float) -> float:
    return float(f"{rate:.2g}")


def tune(classes: Sequence[Class], ledger: Ledger, work: Work, steps: int, *, quick: bool) -> dict:
    """{class name: {"rate", "loss", "losses" by rate}} of the classes; does what the ledger
    lacks.
    """
    subjects = TUNING[:1] if quick else TUNING
    rates = {c: list(c.grid[-2:]) if quick else list(c.grid) for c in classes}
    losses: dict[Class, dict[float, float]] = {c: {} for c in classes}
    while any(rates.values()):
        work([run for c in classes for r in rates[c] for run in c.runs(r, steps, subjects)])
        for c in classes:
            for rate in rates[c]:
                rows = [ledger.of(run)[-1] for run in c.runs(rate, steps, subjects)]
                losses[c][rate] = mean_loss(rows)
            rates[c] = [] if quick or not rates[c] else next_rates(losses[c], c.grid, c.moves)
    return {c.name: choice(losses[c]) for c in classes}


def choice(losses: dict[float, float]) -> dict:
    best = min(losses, key=losses.get)
    by_rate = {f"{rate:g}": losses[rate] for rate in sorted(losses)}
    return {"rate": best, "loss": losses[best], "losses": by_rate}


def write_rates(folder: Path, found: dict) -> dict:
    """Adds to the file of chosen rates; returns all of them."""
    path = folder / RATES
    known = json.loads(path.read_text()) if path.exists() else {}
    known |= found
    ordered = {c.name: known[c.name] for c in EVERY_CLASS if c.name in known}
    path.write_text(json.dumps(ordered, indent=1) + "\n")
    return ordered


def tuned(run: Run, rates: dict) -> Run:
    """The run at the rate of its class; rivals have that of one size at all."""
    if run.method == "base":
        return run
    rank = run.rank
    if run.method in rivals.METHODS:
        rank = rivals.trained_rank(run.method, rivals.TUNED_RANK)
    return replace(run, rate=rates[Class(run.method, rank, run.layers, run.base).name]["rate"])
