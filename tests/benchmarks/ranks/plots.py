"""Quality against bytes: a line a method, bars for the 95 % interval without the subjects' own
levels.
"""

from __future__ import annotations

import math
from pathlib import Path

from matplotlib.figure import Figure
from matplotlib.ticker import NullFormatter, ScalarFormatter

from tests.benchmarks.ranks.quality import LOSSES, NAMES, SAMPLES, Quality
from tests.benchmarks.ranks.statistics import geometric_mean, without_subjects

COLOURS = {
    "fixed": "#4c72b0", "sv_fro": "#8c8c8c", "sv_ratio": "#64b5cd", "uniform": "#ccb974",
    "paper": "#8172b3", "adaptive": "#c44e52",
}  # fmt: skip


def draw(quality: Quality, measure: str, label: str, path: Path, *, loss: bool) -> None:
    """Writes a PNG. Losses are drawn as geometric means on a logarithmic axis."""
    read = quality.log if loss else quality.values
    keys = [key for key in quality.sizes if quality.values(key, measure)]
    estimates = without_subjects([read(key, measure) for key in keys])
    sizes = [geometric_mean(quality.log(key, "mb")) for key in keys]
    figure = Figure(figsize=(7, 4.5), dpi=120, layout="constrained")
    axes = figure.subplots()
    for method in NAMES:
        chosen = [i for i, key in enumerate(keys) if key[0] == method]
        if not chosen:
            continue
        show = math.exp if loss else float
        middle = [show(estimates[i].mean) for i in chosen]
        half = [0.0 if math.isnan(estimates[i].half) else estimates[i].half for i in chosen]
        low = [show(estimates[i].mean - h) for i, h in zip(chosen, half, strict=True)]
        high = [show(estimates[i].mean + h) for i, h in zip(chosen, half, strict=True)]
        bars = [
            [m - b for m, b in zip(middle, low, strict=True)],
            [t - m for m, t in zip(middle, high, strict=True)],
        ]
        axes.errorbar(
            [sizes[i] for i in chosen], middle, bars,
            marker="o", markersize=4, capsize=2, linewidth=2.2 if method == "adaptive" else 1.2,
            color=COLOURS[method], label=NAMES[method],
        )  # fmt: skip
    axes.set_xscale("log")
    if loss:
        axes.set_yscale("log")
        axes.yaxis.set_minor_formatter(ScalarFormatter())
        axes.yaxis.set_major_formatter(ScalarFormatter())
    axes.xaxis.set_major_formatter(ScalarFormatter())
    axes.xaxis.set_minor_formatter(NullFormatter())
    axes.set_xlabel("size in MB")
    axes.set_ylabel(label)
    axes.grid(alpha=0.25, which="both")
    axes.legend(frameon=False, fontsize=8)
    figure.savefig(path)


def draw_all(quality: Quality, folder: Path) -> list[str]:
    """The pictures of experiment B; their file names."""
    if not quality.pairs:
        return []
    names = ["ranks_loss.png"]
    draw(quality, "background", f"loss, {LOSSES['background']}", folder / names[0], loss=True)
    measure = "similar_background"
    if any(quality.values(key, measure) for key in quality.sizes):
        names.append("ranks_similarity.png")
        draw(quality, measure, SAMPLES[measure], folder / names[1], loss=False)
    return names
