"""The tables and plots of all experiments, as one Markdown document."""

from __future__ import annotations

import json
from importlib import import_module
from pathlib import Path

from tests.benchmarks.ranks import conclusion, quality, styles, truncation, wide
from tests.benchmarks.ranks.pictures import TUNING
from tests.benchmarks.ranks.plan import Plan
from tests.benchmarks.ranks.plots import draw_all
from tests.benchmarks.ranks.runs import Ledger
from tests.benchmarks.ranks.tuning import CLASSES, EVERY_CLASS, FLOW_CLASSES, WIDE_CLASSES

MODULES = {
    "A": "planted",
    "D": "compress",
    "F": "ablation",
    "G": "found",
}  # experiments that keep a file of their own
FILE = "results.md"
COMMAND = "python -m nox -s bench-ranks -- tests/benchmarks/ranks/results --report --reuse adaptive"
TITLE = "# Results"
READING = f"""## How to read the tables

They compare ways to choose ranks, at equal bytes and equal steps, on the playground's tiny model.
A loss is a denoising loss with fixed noise and timesteps; lower is better. A loss of several
subjects is their geometric mean. A ratio of losses is paired by subject and seed. Its range is the
95 % interval over subjects, and ± is half of such an interval; in the tables and plots of B each
subject's own level is taken off first.

Sections A, G, H and I are of today's `adaptive`. B, C, E and F are of it as it was before its size
fell over the first half of a run and its wide layers learned as fast as narrow ones. D trains
nothing anew.

This command prints the page from the stored results. Without `--report` it first runs what is
missing there, which takes hours:

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
    "G": "Random problems of planted ranks",
    "H": "All layers under one size",
    "I": "All layers under one size, on a flow transformer",
}


def stored(folder: Path, name: str) -> dict | None:
    """The results of a module that keeps them in a file of its own."""
    path = folder / f"{name}.json"
    return json.loads(path.read_text())["results"] if path.exists() else None


def rate_table(rates: dict) -> str:
    """Loss by learning rate; the chosen one is bold."""
    lines = []
    for c in EVERY_CLASS:
        if c.name in rates:
            chosen = f"{rates[c.name]['rate']:g}"
            cells = [
                f"**{rate}: {loss:.4f}**" if rate == chosen else f"{rate}: {loss:.4f}"
                for rate, loss in rates[c.name]["losses"].items()
            ]
            lines.append([c.name, ", ".join(cells)])
    head = ["method and rank", "learning rate: loss on unseen backgrounds"]
    return quality.markdown(head, lines)


def sections(plan: Plan, flow: Plan, ledger: Ledger, rates: dict, folder: Path) -> dict[str, str]:
    """The text of each experiment that has results; flow: what is asked of the second base."""
    found = {}
    for letter, name in MODULES.items():
        if (results := stored(folder, name)) is not None:
            found[letter] = import_module(f"{__package__}.{name}").table(results)
    if all(c.name in rates for c in CLASSES):
        found["B"] = quality.table(quality.collect(plan, ledger, rates))
    if all(c.name in rates for c in CLASSES if c.method == "adaptive"):
        found["C"] = truncation.table(truncation.collect(plan, ledger, rates))
        found["E"] = styles.table(styles.collect(plan, ledger, rates))
    if all(c.name in rates for c in (*CLASSES, *WIDE_CLASSES)):
        attention = quality.collect(plan, ledger, rates)
        found["H"] = wide.table(wide.collect(plan, ledger, rates), attention)
    if all(c.name in rates for c in FLOW_CLASSES):
        found["I"] = wide.second_table(flow, ledger, rates)
    return found


def conclude(plan: Plan, flow: Plan, ledger: Ledger, rates: dict, folder: Path) -> str:
    """Returns what the results come to."""
    modules = {m: found for m, name in MODULES.items() if (found := stored(folder, name))}
    qualities, cuts, maps = quality.Quality({}, {}), {}, {}
    if all(c.name in rates for c in CLASSES):
        qualities = quality.collect(plan, ledger, rates)
    if all(c.name in rates for c in CLASSES if c.method == "adaptive"):
        cuts = truncation.collect(plan, ledger, rates)
        maps = styles.collect(plan, ledger, rates)
    everywhere = []
    if all(c.name in rates for c in (*CLASSES, *WIDE_CLASSES)):
        everywhere.append(wide.about(wide.collect(plan, ledger, rates), qualities))
    if all(c.name in rates for c in FLOW_CLASSES):
        both = wide.collect(flow, ledger, rates), quality.collect(flow, ledger, rates)
        everywhere.append(wide.about(*both, "The same on a flow transformer", "I"))
    return conclusion.text(modules, qualities, cuts, maps, everywhere)


def write(plan: Plan, flow: Plan, ledger: Ledger, rates: dict, folder: Path, target: Path) -> str:
    """Writes the document and its pictures to `target`; returns the text."""
    target.mkdir(parents=True, exist_ok=True)
    texts = sections(plan, flow, ledger, rates, folder)
    parts = [TITLE, *filter(None, [conclude(plan, flow, ledger, rates, folder)]), READING]
    parts.append(f"Every run has {plan.steps} steps of batch 8, unless its section says otherwise.")
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
