"""The report on a table: means over seeds, then subjects, as a Markdown table and two charts."""

from __future__ import annotations

import statistics
from pathlib import Path

import numpy as np

from ..atomic import write_atomic
from ..charts.drawing import blank, legend_below, pixels, plain_panel, png
from ..charts.score_chart import METRICS, Scored, look_of, score_chart, score_table
from ..charts.scores import Score
from .plan import Plan, Trial
from .table import Rows, Table, rows_of


def mean(rows: list[dict], name: str) -> float | None:
    """Returns the mean of a column over the rows that have it; None without any."""
    values = [row[name] for row in rows if row[name] is not None]
    return statistics.fmean(values) if values else None


def score_of(rows: list[dict]) -> Score:
    """Returns the mean of each score over rows."""
    return Score(*(mean(rows, name) for name in vars(Score())))


def of_subjects(rows: Rows, method: str) -> dict[str, Score]:
    """Returns the scores of each subject with a method: means over seeds."""
    names = dict.fromkeys(t.subject for t in rows if t.method == method)
    own = {n: [r for t, r in rows.items() if (t.method, t.subject) == (method, n)] for n in names}
    return {name: score_of(of_seeds) for name, of_seeds in own.items()}


def of_method(rows: Rows, method: str) -> Scored:
    """Returns the scores of a method: means and standard deviations over subjects, and mean
    size.
    """
    scores = list(of_subjects(rows, method).values())
    size = mean(rows_of(rows, method), "megabytes")
    spread = {}
    for name in vars(Score()):
        values = [v for s in scores if (v := getattr(s, name)) is not None]
        spread[name] = statistics.stdev(values) if len(values) > 1 else None
    return Scored(method, size, Score.mean(scores), Score(**spread))


def write_report(plan: Plan, table: Table, wanted: list[Trial], folder: Path) -> str:
    """Writes report.md, score_against_size.png and subjects.png on the finished trials, and returns
    the Markdown.
    """
    rows = table.finished(wanted)
    methods = [m for m in plan.methods if any(t.method == m for t in rows)]
    if not methods:
        return "No trial is finished yet."
    entries = [of_method(rows, method) for method in methods]
    subjects = list(dict.fromkeys(trial.subject for trial in rows))
    counts = f"{len(subjects)} subjects, {plan.prompts} prompts x {plan.images} pictures, "
    counts += f"{len(plan.seeds)} seeds, {len(rows)} of {len(wanted)} trials; {plan.checkpoint}"
    finished = {m: len(rows_of(rows, m)) for m in methods}
    uneven = ""
    if len(set(finished.values())) > 1:
        numbers = ", ".join(f"{m} {n}" for m, n in finished.items())
        uneven = f"\n**Not to be compared yet: methods have different trials** ({numbers}).\n"
    seconds = [mean(rows_of(rows, m), "train_seconds") for m in methods]
    spent = ", ".join(f"{m} {s:.0f} s" for m, s in zip(methods, seconds, strict=True) if s)
    text = f"""# Scores

{counts}.
{uneven}
{score_table(entries)}

\u00b1 is the standard deviation over subjects. Mean over the pictures of a prompt, then prompts,
seeds and subjects. Mean time of a training: {spent or "none"}.

![Score against size](score_against_size.png)

![Every subject](subjects.png)
"""
    write_atomic(folder / "report.md", text.encode())
    write_atomic(folder / "score_against_size.png", png(score_chart(entries, counts)))
    write_atomic(folder / "subjects.png", png(subject_chart(rows, entries, subjects)))
    return text


def subject_chart(rows: Rows, entries: list[Scored], subjects: list[str]) -> np.ndarray:
    """Draws the scores of every subject, uint8 RGB: a panel for each metric, subjects along x, and
    each method with its mark of the chart of sizes.
    """
    by_method = [of_subjects(rows, entry.name) for entry in entries]
    has = [n for n in METRICS if any(n in s.values() for f in by_method for s in f.values())]
    size = (max(7.0, 2.2 + 0.42 * len(subjects)), 0.9 + 2.3 * len(has))
    figure = blank(*size, layout="constrained")
    panels = figure.subplots(len(has), 1, sharex=True, squeeze=False)[:, 0]
    for axes, metric in zip(panels, has, strict=True):
        for number, (entry, scores) in enumerate(zip(entries, by_method, strict=True)):
            look = look_of(entry, entries)
            heights = [scores.get(s, Score()).values().get(metric, np.nan) for s in subjects]
            shift = 0.6 * ((number + 0.5) / len(by_method) - 0.5)
            positions = [i + shift for i in range(len(subjects))]
            look |= {"markersize": 12} if entry.megabytes == 0 else {}
            axes.plot(positions, heights, linestyle="none", label=entry.name, **look)
        axes.set_xticks(range(len(subjects)), subjects)
        axes.set_xlim(-0.5, len(subjects) - 0.5)
        plain_panel(axes, metric)
    panels[-1].tick_params(axis="x", rotation=60)
    legend_below(figure, panels[0])
    return pixels(figure)
