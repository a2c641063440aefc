"""Experiment H: all layers in the model's blocks under one size, against plain LoRA on the same
layers and against attention alone. Experiment I asks the same on the second base.
"""

from __future__ import annotations

import math
from collections import defaultdict
from dataclasses import replace

from tests.benchmarks.ranks import quality
from tests.benchmarks.ranks.plan import Plan
from tests.benchmarks.ranks.quality import LOSSES, NAMES, Quality, column, geometric, markdown
from tests.benchmarks.ranks.runs import FLOW, Ledger, Run
from tests.benchmarks.ranks.statistics import (
    Values,
    difference,
    envelope,
    geometric_mean,
    over_subjects,
)
from tests.benchmarks.ranks.tuning import WIDE, tuned

RESULT = "background"  # the loss that decides


def run_of(plan: Plan, pair: tuple[str, int], size: tuple[str, int, float], rates: dict) -> Run:
    """Returns the run of a subject and seed at one of plan.wide_sizes, at its learning rate."""
    run = replace(plan.run(pair, *size), layers=WIDE, samples=False, cuts=())
    return tuned(run, rates)


def runs(plan: Plan, rates: dict) -> list[Run]:
    """Returns all runs: sizes from small to large, each on all subjects before the next seed. On
    the second base, which has no other experiment, also those of attention alone.
    """
    wanted = [plan.base(subject) for subject in plan.subjects]
    for seed in range(plan.seeds):
        for size in plan.wide_sizes:
            wanted += [run_of(plan, (subject, seed), size, rates) for subject in plan.subjects]
        if plan.base_model == FLOW:
            wanted += [run for run in plan.quality(rates) if run.seed == seed]
    return wanted


def collect(plan: Plan, ledger: Ledger, rates: dict) -> Quality:
    """Returns what is there of each method and size; not every pair has all of them."""
    points: dict = defaultdict(dict)
    for size in plan.wide_sizes:
        for pair in plan.pairs:
            for row in ledger.of(run_of(plan, pair, size, rates)):
                points[size[0], size[1] * size[2]][pair] = row
    return Quality(dict(points), {})


def best_of(attention: Quality) -> tuple[str, float]:
    """Returns the method and size with the lowest loss where attention alone is trained."""
    return min(attention.sizes, key=lambda k: over_subjects(attention.log(k, RESULT)).mean)


def compared(ours: Values, theirs: Values) -> str:
    """Returns a paired ratio with its interval, and how often ours is lower."""
    mean, low, high = difference(ours, theirs).exp()
    both = [pair for pair in ours if pair in theirs]
    wins = sum(ours[pair] < theirs[pair] for pair in both)
    interval = "" if math.isnan(low) else f" ({low:.3f} to {high:.3f})"
    return f"{mean:.3f}{interval}, {wins} of {len(both)}"


def rivals(wide: Quality, attention: Quality, size: float) -> dict[str, Values]:
    """Returns what `adaptive` at a size is compared with: the logarithms of the loss, by name."""
    ours, found = wide.point(("adaptive", size), RESULT), {}
    if ("fixed", size) in wide.points:
        found["plain LoRA, same layers and rank"] = wide.log(("fixed", size), RESULT)
    if attention.pairs:
        there = {pair: mb for pair, mb in ours.mb.items() if pair in attention.pairs}
        if there:
            found["attention alone, best of its bytes"] = envelope(
                attention.controls(RESULT) | {"adaptive": of_adaptive(attention)}, there
            )[1]
            found["attention alone, at its best size"] = attention.log(best_of(attention), RESULT)
    return found


def of_adaptive(attention: Quality) -> list:
    return [attention.point(k, RESULT) for k in attention.sizes if k[0] == "adaptive"]


def table(wide: Quality, attention: Quality) -> str:
    """Returns the losses of each method and size, and the ratios."""
    if not wide.points:
        return "Nothing is there yet."
    keys = sorted(wide.points)
    columns = [column([wide.log(k, m) for k in keys], geometric) for m in LOSSES]
    lines = []
    for key, losses in zip(keys, zip(*columns, strict=True), strict=True):
        rows = wide.points[key]
        ranks = [rank for row in rows.values() for rank in row["ranks"]]
        mb = f"{geometric_mean(wide.log(key, 'mb')):.4f}"
        spread = f"{min(ranks)} to {max(ranks)}" if min(ranks) < max(ranks) else f"{ranks[0]}"
        seconds = over_subjects(wide.values(key, "seconds")).mean
        cells = [NAMES[key[0]], f"{key[1]:g}", mb, spread, f"{len(rows)}", *losses]
        lines.append([*cells, f"{seconds:.0f}"])
    head = ["method", "mean rank", "MB", "ranks", "runs", *LOSSES.values(), "s"]
    parts = [markdown(head, lines)]
    compare = []
    for method, size in keys:
        if method == "adaptive":
            ours = wide.log((method, size), RESULT)
            compare += [
                [f"{size:g}", f"{geometric_mean(wide.log((method, size), 'mb')):.4f}", name, text]
                for name, theirs in rivals(wide, attention, size).items()
                if (text := compared(ours, theirs))
            ]
    parts += [
        "`adaptive` on all layers, unseen backgrounds (ratio of losses, below 1 is better, and how "
        "often it is lower):",
        markdown(["mean rank", "MB", "over", "ratio"], compare),
    ]
    return "\n\n".join(parts)


def second_table(plan: Plan, ledger: Ledger, rates: dict) -> str:
    """Returns experiment I: the tables of H, and those of attention alone, on the second base."""
    attention = quality.collect(plan, ledger, rates)
    parts = [
        "The base is a transformer of ComfyUI's class SD3 (rectified flow; "
        "`python -m nox -s train-flow` trains it). It has the pictures, the captions, the text "
        f"encoder and the autoencoder of the playground. Every run has {plan.steps} steps of "
        "batch 8; `--base flow --only H` runs them.",
        table(collect(plan, ledger, rates), attention),
    ]
    if attention.pairs:
        parts += [
            "Attention alone on this base:", quality.loss_table(attention),
            "Adaptive over plain LoRA, attention alone, unseen backgrounds:",
            quality.ratio_table(attention, RESULT),
        ]  # fmt: skip
    return "\n\n".join(parts)


def about(
    wide: Quality,
    attention: Quality,
    title: str = "All layers, not attention alone",
    letter: str = "H",
) -> str | None:
    """Returns what the experiment comes to; None where a part is missing."""
    sizes = sorted(size for method, size in wide.points if method == "adaptive")
    if not sizes or not attention.pairs:
        return None
    best = best_of(attention)
    there = geometric_mean(attention.log(best, "mb"))
    said = []
    for size in sizes:
        ours = wide.log(("adaptive", size), RESULT)
        ratio = compared(ours, attention.log(best, RESULT))
        plain = ""
        if ("fixed", size) in wide.points:
            plain = f", {compared(ours, wide.log(('fixed', size), RESULT))} over plain LoRA there"
        said.append(f"{geometric_mean(wide.log(('adaptive', size), 'mb')):.2f} MB: {ratio}{plain}")
    return (
        f"**{title}.** Loss of `adaptive` on all layers in blocks, unseen "
        f"backgrounds, over the best of attention alone at any size ({NAMES[best[0]]} {best[1]:g}, "
        f"{there:.2f} MB): {'; '.join(said)}. ({letter})"
    )
