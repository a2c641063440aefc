"""The tables and plots of all experiments, as one Markdown document."""

from __future__ import annotations

import json
from importlib import import_module
from pathlib import Path

from tests.benchmarks.ranks import quality, styles, truncation
from tests.benchmarks.ranks.pictures import TUNING
from tests.benchmarks.ranks.plan import Plan
from tests.benchmarks.ranks.plots import draw_all
from tests.benchmarks.ranks.runs import Ledger
from tests.benchmarks.ranks.tuning import CLASSES

MODULES = {
    "A": "planted",
    "D": "compress",
    "F": "ablation",
}  # experiments that keep a file of their own
FILE = "results.md"
COMMAND = "python -m nox -s bench-ranks -- tests/benchmarks/ranks/results --report --reuse adaptive"
INTRODUCTION = f"""# Results

What each way of choosing ranks gives, at equal bytes and equal steps. Losses are denoising losses
on the playground with fixed noise and timesteps; lower is better. Means over subjects are geometric
for losses. Ratios are paired by subject and seed, with their 95 % interval over subjects; ± is half
of such an interval, in the tables and plots of B once every subject's own level is taken off.

This prints the tables from the results folder again; without `--report` it first runs what is
missing there:

```
{COMMAND}
```"""
TITLES = {
    "A": "Planted ranks",
    "B": "Quality at equal bytes",
    "C": "One adapter cut to every size",
    "D": "Compressing a trained LoRA",
    "E": "Rank maps of styles",
    "F": "The departures from the paper, one by one",
}


def stored(folder: Path, name: str) -> dict | None:
    """The results of a module that keeps them in a file of its own."""
    path = folder / f"{name}.json"
    return json.loads(path.read_text())["results"] if path.exists() else None


def rate_table(rates: dict) -> str:
    """Loss by learning rate; the chosen one is bold."""
    lines = []
    for c in CLASSES:
        if c.name in rates:
            chosen = f"{rates[c.name]['rate']:g}"
            cells = [
                f"**{rate}: {loss:.4f}**" if rate == chosen else f"{rate}: {loss:.4f}"
                for rate, loss in rates[c.name]["losses"].items()
            ]
            lines.append([c.name, ", ".join(cells)])
    head = ["method and rank", "learning rate: loss on unseen backgrounds"]
    return quality.markdown(head, lines)


def sections(plan: Plan, ledger: Ledger, rates: dict, folder: Path) -> dict[str, str]:
    """The text of each experiment that has results."""
    found = {}
    for letter, name in MODULES.items():
        if (results := stored(folder, name)) is not None:
            found[letter] = import_module(f"{__package__}.{name}").table(results)
    if all(c.name in rates for c in CLASSES):
        found["B"] = quality.table(quality.collect(plan, ledger, rates))
    if all(c.name in rates for c in CLASSES if c.method == "adaptive"):
        found["C"] = truncation.table(truncation.collect(plan, ledger, rates))
        found["E"] = styles.table(styles.collect(plan, ledger, rates))
    return found


def write(plan: Plan, ledger: Ledger, rates: dict, folder: Path, target: Path) -> str:
    """Writes the document and its pictures to `target`; returns the text."""
    target.mkdir(parents=True, exist_ok=True)
    texts = sections(plan, ledger, rates, folder)
    parts = [INTRODUCTION, f"{plan.steps} steps a run, batch 8."]
    for letter, title in TITLES.items():
        if letter not in texts:
            continue
        parts += [f"## {letter}. {title}", texts[letter]]
        if letter == "B":
            pictures = draw_all(quality.collect(plan, ledger, rates), target)
            parts += [f"![{title}]({name})" for name in pictures]
    if rates:
        subjects = ", ".join(TUNING)
        parts += [
            "## Learning rates",
            f"Tuned on {subjects}, which are no test subjects; one seed.",
            rate_table(rates),
        ]
    text = "\n\n".join(parts) + "\n"
    (target / FILE).write_text(text)
    return text
