"""The report on a search: a table of its settings, a chart for each input, a plan with the best."""

from __future__ import annotations

import json
import statistics
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np

from ..atomic import write_atomic
from ..charts.drawing import blank, legend_below, pixels, plain_panel, png
from .plan import Plan, Trial
from .search import Search
from .table import Rows, Table, rows_of

# settings that found.json holds
BEST = 3
# inches: width of a panel, height of the chart
PANEL, HEIGHT = 3.6, 3.6
# colours of settings that were tried on everything, and of those that were stopped
COMPLETE, STOPPED = "#1f5fbf", "#9a9a9a"


def write_search_report(
    search: Search, tried: Plan, plan: Plan, table: Table, wanted: list[Trial], folder: Path
) -> str:
    """Writes search.md, search.png and found.json on the finished trials, and returns the Markdown.

    tried: the plan with the settings as its methods. plan: the plan before the search; found.json
        has its methods and the best settings.
    """
    rows = table.finished(wanted)
    settings = tried.methods
    ranking = search.ranking(rows, list(settings))
    if not ranking:
        return "No trial is finished yet."
    counts = {m: len(rows_of(rows, m)) for m in ranking}
    most = len(wanted) // len(settings)
    best = {m: settings[m] for m in ranking[:BEST] if counts[m] == counts[ranking[0]]}
    objective = " + ".join(f"{weight:g} {name}" for name, weight in search.objective.items())
    text = f"""# Search

{len(ranking)} of {len(settings)} settings tried with {len(rows)} trials; all on everything would be
{len(wanted)}. {plan.checkpoint}. Score: {objective}.

{table_of(search, settings, ranking, rows, most)}

Only settings that were tried on equally many subjects and seeds compare; those with fewer were
stopped there. The best of many looks better than it is: try it on other subjects or seeds, with
`--plan found.json`.

![What each setting scored](search.png)
"""
    best_plan = asdict(replace(plan, methods=plan.methods | best))
    write_atomic(folder / "search.md", text.encode())
    write_atomic(folder / "search.png", png(chart(search, settings, rows, most)))
    write_atomic(
        folder / "found.json", json.dumps(best_plan, indent=2, ensure_ascii=False).encode()
    )
    return text


def table_of(
    search: Search, settings: dict[str, dict], ranking: list[str], rows: Rows, most: int
) -> str:
    """Returns a Markdown table with a row for each setting, best first."""
    scores = list(search.objective)
    shown = [*scores, *(["megabytes"] if "megabytes" not in scores else [])]
    head = [*search.settings, "tried on", "score", *shown]
    lines = [f"| {' | '.join(head)} |", "|" + "--:|" * len(head)]
    for name in ranking:
        own = rows_of(rows, name)
        means = [f"{statistics.fmean(row[n] for row in own):.4f}" for n in shown]
        values = [str(settings[name][varied]).replace("|", " ") for varied in search.settings]
        cells = [*values, f"{len(own)} of {most}", f"{search.score(own):.4f}", *means]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def chart(search: Search, settings: dict[str, dict], rows: Rows, most: int) -> np.ndarray:
    """Draws the scores, uint8 RGB: a panel for each varied input, with its value along x."""
    names = search.settings
    figure = blank(1.0 + PANEL * len(names), HEIGHT, layout="constrained")
    panels = figure.subplots(1, len(names), sharey=True, squeeze=False)[0]
    own = {m: rows_of(rows, m) for m in settings}
    kinds = ("tried on all", COMPLETE, True), ("stopped earlier", STOPPED, False)
    for axes, (name, space) in zip(panels, names.items(), strict=True):
        if isinstance(space, list):
            axes.set_xticks(range(len(space)), [str(value)[:16] for value in space])
            axes.set_xlim(-0.5, len(space) - 0.5)
        elif "log" in space:
            axes.set_xscale("log")
        for label, colour, complete in kinds:
            marked = [m for m, of_it in own.items() if of_it and (len(of_it) == most) == complete]
            across = [settings[m][name] for m in marked]
            across = [space.index(v) for v in across] if isinstance(space, list) else across
            heights = [search.score(own[m]) for m in marked]
            filled = {"markerfacecolor": colour if complete else "none", "markersize": 7}
            axes.plot(across, heights, "o", color=colour, label=label, **filled)
        plain_panel(axes, name)
    panels[0].set_ylabel("score", fontsize=9)
    legend_below(figure, panels[0])
    return pixels(figure)
