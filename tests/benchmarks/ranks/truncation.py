"""Experiment C: an adaptive adapter cut to a share of its bytes against one trained at that size.

Gain is the base's loss minus the adapter's; a ratio of 1 means that cutting costs nothing.
"""

from __future__ import annotations

import math

from tests.benchmarks.ranks.plan import TRUNCATED_FROM, TRUNCATIONS, Plan
from tests.benchmarks.ranks.quality import arithmetic, markdown
from tests.benchmarks.ranks.runs import Ledger
from tests.benchmarks.ranks.statistics import Values, geometric_mean, over_subjects
from tests.benchmarks.ranks.tuning import tuned

MEASURES = {"background": "unseen backgrounds", "style": "unseen style"}


def gain_ratio(base: float, cut: float, trained: float) -> float:
    """Of the two gains, from losses."""
    return (base - cut) / (base - trained)


def collect(plan: Plan, ledger: Ledger, rates: dict) -> dict[float, dict]:
    """{share: {(subject, seed): (base row, row of the cut, row of the trained)}}, the complete
    ones.
    """
    found: dict[float, dict] = {share: {} for share in TRUNCATIONS}
    for pair in plan.pairs:
        whole = tuned(plan.run(pair, "adaptive", TRUNCATED_FROM), rates)
        cuts = {row["config"]["cut"][1]: row for row in ledger.of(whole) if row["config"]["cut"]}
        base = ledger.of(plan.base(pair[0]))
        for share, size in TRUNCATIONS.items():
            trained = ledger.of(tuned(plan.run(pair, "adaptive", *size), rates))
            if base and trained and share in cuts:
                found[share][pair] = base[0], cuts[share], trained[0]
    return found


def ratios(rows: dict, measure: str) -> Values:
    return {pair: gain_ratio(*(row[measure] for row in three)) for pair, three in rows.items()}


def table(found: dict[float, dict]) -> str:
    """A line a share: MB and loss (unseen backgrounds) of the cut and of the trained, then the
    ratios of gains.
    """
    head = ["share", "MB of the cut", "of the trained", "loss of the cut", "of the trained"]
    head += [f"gain, {title}" for title in MEASURES.values()] + ["pairs"]
    lines = []
    for share, rows in found.items():
        if not rows:
            continue
        kept = [{pair: three[i] for pair, three in rows.items()} for i in (1, 2)]
        logs = [{p: math.log(row["background"]) for p, row in side.items()} for side in kept]
        means = [over_subjects({p: row["mb"] for p, row in side.items()}).mean for side in kept]
        means += [geometric_mean(side) for side in logs]
        cells = [f"{mean:.4f}" for mean in means]
        cells += [arithmetic(over_subjects(ratios(rows, measure))) for measure in MEASURES]
        lines.append([f"{share:.0%}", *cells, str(len(rows))])
    return markdown(head, lines) if lines else "Nothing is complete yet."
