"""Experiment E: are learned ranks a property of what is learned? Rank maps of two styles, each
trained twice with other seeds, correlated within and between styles.
"""

from __future__ import annotations

from itertools import combinations

from tests.benchmarks.ranks.plan import Plan
from tests.benchmarks.ranks.quality import markdown
from tests.benchmarks.ranks.runs import Ledger
from tests.benchmarks.ranks.statistics import pearson, spearman


def collect(plan: Plan, ledger: Ledger, rates: dict) -> dict[tuple[str, int], list[int]]:
    """The ranks of all layers by (style, seed)."""
    runs = plan.styles(rates)
    return {(run.pictures, run.seed): rows[0]["ranks"] for run in runs if (rows := ledger.of(run))}


def table(found: dict[tuple[str, int], list[int]]) -> str:
    """A line for each pair of runs."""
    lines = []
    for (a, first), (b, second) in combinations(found.items(), 2):
        kind = "within" if a[0] == b[0] else "between"
        names = [f"{style}, seed {seed}" for style, seed in (a, b)]
        numbers = f"{pearson(first, second):.2f}", f"{spearman(first, second):.2f}"
        lines.append([kind, *names, *numbers])
    if not lines:
        return "Nothing is complete yet."
    head = ["styles", "one run", "another", "Pearson", "Spearman"]
    return markdown(head, sorted(lines, key=lambda line: line[0], reverse=True))
