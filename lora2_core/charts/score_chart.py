"""Scores of several adapters, as a table and as a chart of score against size."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from .drawing import blank, legend_below, pixels, plain_panel
from .scores import Score

METRICS = ("DINO", "CLIP-I", "CLIP-T")
PANEL, HEIGHT = 4.2, 3.9  # inches
BASE, OTHERS = "#8a6200", ("#1f5fbf", "#c4600d", "#2f7d4f", "#8c3b8f", "#5a5a5a", "#b3261e")
MARKS = "osD^vP*X"  # of matplotlib; the next adapter has the next mark
WIDEST_GAP = 30  # largest size / smallest: above, the axis of sizes is logarithmic


@dataclass(frozen=True)
class Scored:
    """A row of the table.

    megabytes: size of the adapter, 0 for no adapter, None where it is not known.
    spread: standard deviation of the score over subjects and seeds, where there are several.
    """

    name: str
    megabytes: float | None
    score: Score
    spread: Score = Score()


def shown(value: float | None, digits: int = 4) -> str:
    """Returns a number of the table as text, a dash for None."""
    return "\u2013" if value is None else f"{value:.{digits}f}"


def measured(entries: Sequence[Scored]) -> list[str]:
    """Returns the metrics that at least one entry has."""
    return [m for m in METRICS if any(m in e.score.values() for e in entries)]


def score_table(entries: Sequence[Scored]) -> str:
    """Returns a table in Markdown with a row an entry; the best of each column is bold."""
    metrics = measured(entries)
    best = {m: max(e.score.values().get(m, -2.0) for e in entries) for m in metrics}
    lines = [
        f"| | MB | {' | '.join(metrics)} |",
        f"|---|--:|{'--:|' * len(metrics)}",
    ]
    for entry in entries:
        cells = []
        for metric in metrics:
            value, deviation = (s.values().get(metric) for s in (entry.score, entry.spread))
            cell = shown(value) if deviation is None else f"{shown(value)} \u00b1 {deviation:.4f}"
            cells.append(f"**{cell}**" if value == best[metric] and len(entries) > 1 else cell)
        name = " ".join(entry.name.replace("|", " ").split())
        lines.append(f"| {name} | {shown(entry.megabytes, 2)} | {' | '.join(cells)} |")
    return "\n".join(lines)


def score_csv(entries: Sequence[Scored]) -> str:
    """Returns the text of a CSV file: name, megabytes, dino, clip_i, clip_t, a line an entry. What
    was not measured is empty.
    """
    text = io.StringIO()
    table = csv.writer(text, lineterminator="\n")
    table.writerow(("name", "megabytes", *vars(Score())))
    for entry in entries:
        numbers = (entry.megabytes, *vars(entry.score).values())
        table.writerow((entry.name, *("" if n is None else f"{n:.6g}" for n in numbers)))
    return text.getvalue()


def score_chart(entries: Sequence[Scored], title: str = "Score against size") -> np.ndarray:
    """Returns the chart as uint8 RGB [height, width, 3]: a panel a metric, size across, score up.
    An entry without an adapter, or of unknown size, is a dashed line.
    """
    metrics = measured(entries)
    size = (1.2 + PANEL * len(metrics), HEIGHT + 0.22 * -(-len(entries) // 3))
    figure = blank(*size, layout="constrained")
    figure.suptitle(title, fontsize=13, fontweight="bold", x=0.02, ha="left", parse_math=False)
    panels = figure.subplots(1, len(metrics), squeeze=False)[0]
    for axes, metric in zip(panels, metrics, strict=True):
        draw_panel(axes, entries, metric)
    legend_below(figure, panels[0])
    return pixels(figure)


def look_of(entry: Scored, entries: Sequence[Scored]) -> dict:
    """Returns the colour and the mark of an entry, the same in every panel; an entry without an
    adapter has a look of its own.
    """
    if entry.megabytes == 0:
        return {"color": BASE, "marker": "_"}
    turn = [e for e in entries if e.megabytes != 0].index(entry)
    mark = "_" if entry.megabytes is None else MARKS[turn % len(MARKS)]
    return {"color": OTHERS[turn % len(OTHERS)], "marker": mark}


def draw_panel(axes, entries: Sequence[Scored], metric: str) -> None:
    """Draws the panel of one metric: a mark an entry, with a bar for its spread."""
    sizes = [e.megabytes for e in entries if e.megabytes]
    if sizes and max(sizes) > WIDEST_GAP * min(sizes):
        axes.set_xscale("log")
    for entry in entries:
        look = look_of(entry, entries)
        value, deviation = (s.values().get(metric) for s in (entry.score, entry.spread))
        height = float("nan") if value is None else value
        name = " ".join(entry.name.split())[:40]
        if not entry.megabytes:
            axes.axhline(height, color=look["color"], linestyle="--", linewidth=1.5, label=name)
            continue
        style = {"linestyle": "none", "capsize": 3, "markersize": 8, "label": name} | look
        axes.errorbar(entry.megabytes, height, yerr=deviation, **style)
    plain_panel(axes, metric)
    axes.set_xlabel("MB in fp16", fontsize=9)
    axes.margins(0.12)
