"""Experiment E: are learned ranks a property of what is learned? Rank maps of styles, each trained
twice with other seeds, correlated within and between styles.
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


def correlations(found: dict[tuple[str, int], list[int]]) -> dict[str, list]:
    """Returns (style, Pearson, Spearman) of every two rank maps: those `within` one style, and
    those `between` two, where the style is that of the first.
    """
    kinds: dict[str, list] = {"within": [], "between": []}
    for (a, first), (b, second) in combinations(found.items(), 2):
        kind = "within" if a[0] == b[0] else "between"
        kinds[kind].append((a[0], pearson(first, second), spearman(first, second)))
    return kinds


def table(found: dict[tuple[str, int], list[int]]) -> str:
    """The pairs of runs within a style, and the mean and the range of all pairs of each kind."""
    kinds = correlations(found)
    lines = [
        [style, "1", *(f"{number:.3f}" for number in numbers)]
        for style, *numbers in kinds["within"]
    ]
    for kind, pairs in kinds.items():
        if pairs:
            both = list(zip(*pairs, strict=True))[1:]
            cells = [f"{sum(n) / len(n):.3f} ({min(n):.3f} to {max(n):.3f})" for n in both]
            lines.append([f"all pairs {kind} styles", str(len(pairs)), *cells])
    if not lines:
        return "Nothing is complete yet."
    return markdown(["rank maps", "pairs", "Pearson", "Spearman"], lines)
