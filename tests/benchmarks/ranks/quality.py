"""Experiment B: held-out quality at equal bytes, adaptive ranks against every control."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

from tests.benchmarks.ranks import rivals
from tests.benchmarks.ranks.plan import Plan
from tests.benchmarks.ranks.runs import Ledger
from tests.benchmarks.ranks.statistics import (
    ROUNDING,
    Estimate,
    Pair,
    Point,
    Values,
    difference,
    envelope,
    geometric_mean,
    over_subjects,
    without_subjects,
)

NAMES = {
    "fixed": "plain LoRA",
    "sv_fro": "rank 64 cut by sv_fro",
    "sv_ratio": "rank 64 cut by sv_ratio",
    "uniform": "rank 64 cut to one rank",
    "paper": "paper",
    "adaptive": "adaptive",
    **rivals.NAMES,
}
LOSSES = {
    "background": "unseen backgrounds",
    "style": "unseen style",
    "own": "base's own pictures",
    "train": "training pictures",
}
SAMPLES = {
    "similar_background": "similarity, unseen backgrounds",
    "similar_style": "similarity, unseen style",
    "following": "background as asked",
}


@dataclass(frozen=True)
class Quality:
    """Rows by (method, size) and (subject, seed), of the pairs that have all of them; the base's by
    subject.
    """

    points: dict[tuple[str, float], dict[Pair, dict]]
    base: dict[str, dict]

    @property
    def pairs(self) -> list[Pair]:
        return list(next(iter(self.points.values()), {}))

    @property
    def sizes(self) -> list[tuple[str, float]]:
        """Of NAMES, in their order; truncated adapters are experiment C's."""
        return sorted(
            (key for key in self.points if key[0] in NAMES),
            key=lambda key: (list(NAMES).index(key[0]), key[1]),
        )

    def values(self, key: tuple[str, float], measure: str) -> Values:
        """Of the pairs that have the measure."""
        rows = self.points[key]
        return {pair: row[measure] for pair, row in rows.items() if measure in row}

    def log(self, key: tuple[str, float], measure: str) -> Values:
        return {pair: math.log(v) for pair, v in self.values(key, measure).items()}

    def point(self, key: tuple[str, float], measure: str) -> Point:
        return Point(self.values(key, "mb"), self.log(key, measure))

    def controls(self, measure: str) -> dict[str, list[Point]]:
        """All methods but adaptive, by name."""
        found: dict[str, list[Point]] = {}
        for key in self.sizes:
            if key[0] != "adaptive":
                found.setdefault(NAMES[key[0]], []).append(self.point(key, measure))
        return found


def collect(plan: Plan, ledger: Ledger, rates: dict) -> Quality:
    """What the ledger has of experiment B, of the pairs that are complete."""
    runs = plan.quality(rates)
    complete = [
        pair
        for pair in plan.pairs
        if all(ledger.done(run) for run in runs if (run.pictures, run.seed) == pair)
    ]
    points: dict = {}
    for run in runs:
        if run.method == "base" or (run.pictures, run.seed) not in complete:
            continue
        for row in ledger.of(run):
            key = tuple(row["config"]["cut"] or (run.method, float(run.rank)))
            points.setdefault(key, {})[run.pictures, run.seed] = row
    subjects = dict.fromkeys(subject for subject, _ in complete)
    bases = {s: rows[0] for s in subjects if (rows := ledger.of(plan.base(s)))}
    return Quality(points, bases)


def geometric(found: Estimate) -> str:
    """Mean of what `found` has the logarithm of, with its half interval in percent."""
    mean = f"{math.exp(found.mean):.4f}"
    return mean if math.isnan(found.half) else f"{mean} ± {math.expm1(found.half):.1%}"


def arithmetic(found: Estimate) -> str:
    return f"{found.mean:.3f}" if math.isnan(found.half) else f"{found.mean:.3f} ± {found.half:.3f}"


def column(lists: list[Values], show: Callable[[Estimate], str]) -> list[str]:
    """A measure at every size, with the interval that is left without the subjects' own levels."""
    there = [values for values in lists if values]
    shown = iter([show(e) for e in without_subjects(there)] if there else [])
    return [next(shown) if values else "-" for values in lists]


def ratio(first: Values, second: Values) -> str:
    """Of two measures from their logarithms, paired."""
    mean, low, high = difference(first, second).exp()
    return f"{mean:.3f}" if math.isnan(low) else f"{mean:.3f} ({low:.3f} to {high:.3f})"


def markdown(head: list[str], rows: list[list[str]]) -> str:
    return "\n".join(f"| {' | '.join(cells)} |" for cells in [head, ["---"] * len(head), *rows])


def loss_table(quality: Quality) -> str:
    """Every method and size: MB, ranks, the four losses, seconds of training."""
    head = ["method", "size", "MB", "ranks", *LOSSES.values(), "s"]
    columns = [column([quality.log(k, m) for k in quality.sizes], geometric) for m in LOSSES]
    base = {(subject, 0): row for subject, row in quality.base.items()}
    levels = [over_subjects({p: math.log(r[m]) for p, r in base.items()}) for m in LOSSES]
    lines = [["base model", "", "", "", *(f"{math.exp(e.mean):.4f}" for e in levels), ""]]
    for key, losses in zip(quality.sizes, zip(*columns, strict=True), strict=True):
        rows = quality.points[key]
        ranks = [rank for row in rows.values() for rank in row["ranks"]]
        spread = f"{min(ranks)} to {max(ranks)}" if min(ranks) < max(ranks) else f"{ranks[0]}"
        mb = geometric_mean(quality.log(key, "mb"))
        seconds = over_subjects(quality.values(key, "seconds")).mean
        size = f"{key[1]:g}"
        lines.append([NAMES[key[0]], size, f"{mb:.4f}", spread, *losses, f"{seconds:.0f}"])
    return markdown(head, lines)


def ratio_table(quality: Quality, measure: str) -> str:
    """Adaptive against plain LoRA of the same rank, and against the best control of its size."""
    head = ["target", "MB", "over plain LoRA of that rank", "over best control", "which", "better"]
    controls, lines = quality.controls(measure), []
    for key in quality.sizes:
        if key[0] != "adaptive":
            continue
        ours = quality.point(key, measure)
        name, best = envelope(controls, ours.mb)
        plain = quality.log(("fixed", key[1]), measure)
        wins = sum(ours.log[pair] < best[pair] for pair in ours.log)
        mb = geometric_mean(quality.log(key, "mb"))
        lines.append(
            [
                f"{key[1]:g}", f"{mb:.4f}", ratio(ours.log, plain), ratio(ours.log, best), name,
                f"{wins} of {len(ours.log)}",
            ]
        )  # fmt: skip
    return markdown(head, lines)


def smallest(quality: Quality, measure: str = "background") -> str:
    """The smallest adaptive adapter that is as good as the best plain LoRA."""
    means = {key: over_subjects(quality.log(key, measure)).mean for key in quality.sizes}
    sizes = {key: over_subjects(quality.log(key, "mb")).mean for key in quality.sizes}
    best = min((key for key in means if key[0] == "fixed"), key=means.get)
    reached = [k for k in means if k[0] == "adaptive" and means[k] <= means[best]]
    plain = f"{math.exp(means[best]):.4f} (rank {best[1]:g}, {math.exp(sizes[best]):.3f} MB)"
    if not reached:
        return f"No adaptive adapter reaches the best loss of plain LoRA, {plain}."
    ours = min(reached, key=sizes.get)
    return (
        f"The smallest adaptive adapter that reaches the best loss of plain LoRA, {plain}, has "
        f"target {ours[1]:g}: {math.exp(means[ours]):.4f} at {math.exp(sizes[ours]):.3f} MB, "
        f"{math.exp(sizes[ours] - sizes[best]):.0%} of the bytes."
    )


def sample_table(quality: Quality) -> str:
    """What the judge sees in samples, first seed."""
    head = ["method", "size", *SAMPLES.values()]
    columns = [column([quality.values(k, m) for k in quality.sizes], arithmetic) for m in SAMPLES]
    base = [[row[m] for row in quality.base.values() if m in row] for m in SAMPLES]
    cells = [f"{sum(found) / len(found):.3f}" if found else "-" for found in base]
    lines = [["base model", "", *cells]]
    for key, cells in zip(quality.sizes, zip(*columns, strict=True), strict=True):
        lines.append([NAMES[key[0]], f"{key[1]:g}", *cells])
    return markdown(head, lines)


def table(quality: Quality) -> str:
    """All of experiment B; one sentence when no subject is complete."""
    if not quality.pairs:
        return "No subject is complete yet."
    count = len(quality.pairs)
    parts = [
        f"Subjects: {', '.join(quality.base)}; {count} runs a row (subjects times seeds).",
        loss_table(quality),
        smallest(quality),
    ]
    for measure in ("background", "style"):
        parts += [
            f"Adaptive over the controls, {LOSSES[measure]} (ratio of losses, below 1 is better; "
            f"a control counts up to {ROUNDING - 1:.1%} above the size):",
            ratio_table(quality, measure),
        ]
    parts += ["Samples, first seed:", sample_table(quality)]
    return "\n\n".join(parts)
