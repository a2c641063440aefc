"""Experiment G: are the ranks of random problems found, with default settings?

Each problem is trained three times: with no size asked, with the size of the planted ranks, and as
an oracle, plain LoRA that is given the planted ranks. Seeds below 540 were looked at while
`adaptive` was made; `nox -s bench-ranks -- FOLDER --only G --problems 700-739` tries others.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from statistics import median
from unittest.mock import patch

import torch

from lora2_core import Adapters, RankSettings, TrainSettings, attach, train
from lora2_core.ranks import modes, worth
from lora2_core.training import auction
from tests.benchmarks.ranks.problems import Net, Problem, draw
from tests.benchmarks.ranks.quality import markdown
from tests.benchmarks.ranks.statistics import spearman

SEEDS = (600, 639)  # the first and the last
VARIED = (1, 2, 4, 5, 12, 106, 118, 502, 517)  # of the seeds that were looked at
SLACK = 1.0001  # of the size that is asked for, for rounding
NONE, SIZE = "none", "the planted ranks'"
CEILING = 64  # mean rank of runs with no size asked
GOOD = 1.05  # error over the oracle's
# the constants of auction and noise test, and other values of them
VARIANTS: dict[str, tuple[object, str, float]] = {
    "start at twice the size, not six times": (modes, "FIRST_SHARE", 2),
    "start at three times": (modes, "FIRST_SHARE", 3),
    "start at twelve times": (modes, "FIRST_SHARE", 12),
    "5 reviews, not 10": (auction, "REVIEWS", 5),
    "20 reviews": (auction, "REVIEWS", 20),
    "size reached, and noise cut, at 0.2 of the run, not 0.5": (auction, "SIZED", 0.2),
    "at 0.8": (auction, "SIZED", 0.8),
    "a cliff of 3, not 6": (worth, "CLIFF", 3.0),
    "a cliff of 12": (worth, "CLIFF", 12.0),
    "a cliff of 30": (worth, "CLIFF", 30.0),
    "noise below 0.003 of a typical worth, not 0.03": (worth, "NOISE", 0.003),
    "noise below 0.3": (worth, "NOISE", 0.3),
    "a share of worth up to 3 times that of energy, not 30": (worth, "ENERGY", 3.0),
    "any times": (worth, "ENERGY", 1e30),
    "rates move a third as far in a step": (modes, "RATE_TRAVEL", 5.0),
    "three times as far": (modes, "RATE_TRAVEL", 45.0),
}


def trained(problem: Problem, settings: RankSettings) -> tuple[Net, Adapters]:
    """A net with trained adapters on it."""
    net = Net(problem)
    adapters = attach(net, r"layers\.\d+$", settings)
    training = TrainSettings(problem.steps, problem.learning_rate, problem.seed)
    for _ in train(adapters, net.loss, training):
        pass
    return net, adapters


def oracle(problem: Problem) -> Net:
    """Plain LoRA of the planted ranks."""
    lines = "\n".join(rf"layers\.{i}$ = {rank}" for i, rank in enumerate(problem.ranks))
    settings = RankSettings(mode="fixed", target_rank=max(problem.ranks), layer_ranks=lines)
    return trained(problem, settings)[0]


def likeness(first: Sequence[int], second: Sequence[int]) -> float:
    """Spearman's correlation; where all of one are alike, whether both are the same."""
    if min(len(set(first)), len(set(second))) < 2:
        return float(list(first) == list(second))
    return float(spearman(first, second))


def found(problem: Problem, settings: RankSettings, visible: list[int], ideal: float) -> dict:
    """A run's ranks against the planted ones, its error without noise over the oracle's, the share
    of the planted ranks' size that it uses, and whether a further position of any layer would fit.
    """
    net, adapters = trained(problem, settings)
    ranks = list(adapters.ranks.values())
    right = [
        seen <= rank <= 1.5 * planted + 2
        for rank, planted, seen in zip(ranks, problem.ranks, visible, strict=True)
    ]
    size = sum(r * sum(s) for r, s in zip(ranks, problem.shapes, strict=True)) * 2e-6
    return {
        "ranks": ranks, "right": all(right), "spearman": likeness(ranks, visible),
        "error": net.clean_error() / ideal, "used": size / problem.megabytes,
        "room": SLACK * problem.megabytes - size >= min(map(sum, problem.shapes)) * 2e-6,
    }  # fmt: skip


def at_size(problem: Problem) -> RankSettings:
    return RankSettings(budget_mb=SLACK * problem.megabytes)


def row_of(seed: int) -> dict:
    """All that is measured of a problem."""
    problem, ideal = draw(seed), oracle(draw(seed))
    visible, error = ideal.visible(), ideal.clean_error()
    nothing = ideal.distance(ideal.planted, None, torch.Generator().manual_seed(77))
    return {
        "seed": seed, "deep": problem.deep, "planted": list(problem.ranks), "visible": visible,
        "spectrum": problem.spectrum, "noise": problem.noise, "oracle": error / nothing,
        NONE: found(problem, RankSettings(target_rank=CEILING), visible, error),
        SIZE: found(problem, at_size(problem), visible, error),
    }  # fmt: skip


@contextmanager
def changed(name: str | None) -> Iterator[None]:
    """The sources with one constant changed."""
    if name is None:
        yield
        return
    with patch.object(*VARIANTS[name]):
        yield


def variant_of(name: str | None, ideals: dict[int, float]) -> dict:
    """The runs of the problems that are varied, for each size, with one constant changed."""
    ways = {NONE: lambda _: RankSettings(target_rank=CEILING), SIZE: at_size}
    with changed(name):
        runs = {
            size: [
                found(draw(seed), settings(draw(seed)), list(draw(seed).ranks), ideal)
                for seed, ideal in ideals.items()
            ]
            for size, settings in ways.items()
        }
    return {"name": name or "as it is", **runs}


def run(
    out: Path,
    *,
    quick: bool = False,
    seeds: tuple[int, int] = SEEDS,
    constants: bool = False,
) -> dict:
    """{"rows": of the problems, "variants": of the constants, if wanted}; nothing is left in
    `out`.
    """
    first, last = seeds
    wanted = range(first, last + 1)[: 2 if quick else None]
    varied = VARIED[: 1 if quick else None]
    names = [None, *VARIANTS][: 2 if quick else None] if constants else []
    torch.set_num_threads(1)
    rows = [row_of(seed) for seed in wanted]
    ideals = {seed: oracle(draw(seed)).clean_error() for seed in varied} if names else {}
    return {"rows": rows, "variants": [variant_of(name, ideals) for name in names]}


def kinds(results: dict) -> Iterator[tuple[str, list[dict], str]]:
    """(kind of net, its rows, size asked) of all that has rows."""
    for kind, deep in (("parallel", False), ("deep", True)):
        rows = [row for row in results["rows"] if row["deep"] == deep]
        for size in (NONE, SIZE):
            if rows:
                yield kind, rows, size


def summary(results: dict) -> str:
    """Markdown: a line for each kind of net and size."""
    lines = []
    for kind, rows, size in kinds(results):
        runs = [row[size] for row in rows]
        errors = sorted(run["error"] for run in runs)
        alike = [run["spearman"] for run in runs]
        lines.append(
            [
                kind, size, f"{sum(run['right'] for run in runs)} of {len(runs)}",
                f"{median(errors):.2f}", f"{errors[-1]:.2f}",
                f"{sum(e <= GOOD for e in errors)} of {len(runs)}",
                f"{median(alike):.2f}", f"{min(alike):.2f}",
                f"{min(run['used'] for run in runs):.1%}" if size == SIZE else "",
                f"{sum(run['room'] for run in runs)} of {len(runs)}" if size == SIZE else "",
            ]
        )  # fmt: skip
    head = ["nets", "size asked", "every rank right", "error over oracle's: median", "worst"]
    head += [f"at most {GOOD:g}", "Spearman: median", "lowest", "least share of the size used"]
    head += ["a further position would have fitted"]
    return markdown(head, lines)


def about(results: dict) -> str:
    """Returns what the problems come to."""
    rows = results["rows"]
    parts = [
        f"{sum(row[size]['right'] for row in rows)} of {len(rows)} times with "
        f"{'no size asked' if size == NONE else 'just their size'} (error over that of a LoRA "
        f"that was given the ranks: median {median(row[size]['error'] for row in rows):.2f}, "
        f"worst {max(row[size]['error'] for row in rows):.2f})"
        for size in (NONE, SIZE)
    ]
    return (
        f"**Random problems of planted ranks** (seeds {rows[0]['seed']} to {rows[-1]['seed']}): "
        f"`adaptive` finds every rank {' and '.join(parts)}. (G)"
    )


def variants_table(results: dict) -> str:
    """Markdown: a line for each change of a constant."""
    lines = []
    for variant in results["variants"]:
        cells = []
        for size in (NONE, SIZE):
            errors = sorted(run["error"] for run in variant[size])
            right = sum(run["right"] for run in variant[size])
            cells += [
                f"{right} of {len(errors)}", f"{median(errors):.2f}", f"{errors[-1]:.2f}"
            ]  # fmt: skip
        lines.append([variant["name"], *cells])
    head = ["constant", "no size asked: every rank right", "median error", "worst"]
    return markdown(head + ["their size asked: right", "median error", "worst"], lines)


def table(results: dict) -> str:
    """Markdown: the summary, a line for each problem, and the constants."""
    lines = []
    for row in results["rows"]:
        cells = [" ".join(map(str, row["planted"]))]
        for size in (NONE, SIZE):
            run = row[size]
            same = run["ranks"] == row["planted"]
            cells += ["the same" if same else " ".join(map(str, run["ranks"]))]
            cells += [f"{run['error']:.2f}"]
        kind = "deep" if row["deep"] else "parallel"
        hidden = sum(row["planted"]) - sum(row["visible"])
        lines.append(
            [
                f"{row['seed']}", kind, row["spectrum"], f"{row['noise']:g}",
                f"{row['oracle']:.4f}", f"{hidden}", *cells, f"{row[SIZE]['used']:.1%}",
            ]
        )  # fmt: skip
    head = ["seed", "net", "spectrum", "noise", "oracle's error", "hidden", "planted ranks"]
    head += ["no size asked", "error", "their size asked", "error", "used"]
    parts = [
        "Default settings. A rank is right from the planted one, without positions below the "
        "noise floor of the data (hidden), to 1.5 x + 2 times it. Errors have no noise in "
        "them and are those over the oracle's, whose own are relative to those without any "
        "update. In a net whose oracle still errs by several percent, more positions than "
        "planted lower the error.",
        summary(results),
        markdown(head, lines),
    ]
    if results["variants"]:
        parts += [
            f"Constants of the auction and of the noise test, on seeds "
            f"{', '.join(map(str, VARIED))}, which were looked at:",
            variants_table(results),
        ]
    return "\n\n".join(parts)
