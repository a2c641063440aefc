"""How the time of a step grows with capacity, adapted layers, batch and resolution."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from comfy.model_patcher import ModelPatcher

from tests.benchmarks.speed.models import SPECS, build, layers_of, pictures, twin
from tests.benchmarks.speed.pace import Pace
from tests.benchmarks.speed.store import Store
from tests.benchmarks.speed.timing import steps_of, take_turns
from tests.benchmarks.speed.variants import VARIANTS, Job

ACTIVE = 8  # ranks in use while the capacity grows
FILE = "performance_growth.png"


@dataclass(frozen=True)
class Axis:
    """One size that is varied, the values it takes, and the trainers that are timed."""

    label: str
    values: tuple[int, ...]
    variants: tuple[str, ...]


AXES = {
    "max_rank": Axis("max_rank, ranks 8 in use", (8, 16, 32, 64, 128, 256, 512), ("adaptive",)),
    "layers": Axis("adapted layers", (12, 24, 48, 96), ("fixed",)),
    "batch": Axis("batch size", (1, 2, 4, 8), ("limit", "fixed")),
    "size": Axis("latent width", (16, 24, 32, 48), ("limit", "fixed")),
}


def job_at(model: ModelPatcher, name: str, axis: str, value: int) -> Job:
    """The job with one size set; the others are the model's own."""
    targets = SPECS[name].targets
    if axis == "layers":
        paths = layers_of(model, targets)
        chosen = [paths[int(i * len(paths) / value)] for i in range(min(value, len(paths)))]
        targets = "^(" + "|".join(map(re.escape, chosen)) + ")$"
    size = value if axis == "size" else None
    data = pictures(name, max(2, value if axis == "batch" else 0), size)
    if axis == "max_rank":
        return Job(twin(model), *data, targets, rank=ACTIVE, max_rank=value)
    return Job(twin(model), *data, targets, batch=value if axis == "batch" else 1)


def run(store: Store, repeats: int, *, quick: bool) -> None:
    """Each axis in turns of its own; rows are named `axis variant value`."""
    name, model = "playground" if quick else "small", None
    for axis, what in AXES.items():
        values = what.values[:2] if quick else what.values
        names = {f"{axis} {variant} {v}": (variant, v) for variant in what.variants for v in values}
        if set(names) <= set(store.rows("growth", name)):
            continue
        print(f"growth: {what.label}", flush=True)
        model = model or build(name)
        paces = {
            key: Pace(VARIANTS[variant](job_at(model, name, axis, v)), steps_of(repeats))
            for key, (variant, v) in names.items()
        }
        for key, row in take_turns(paces, repeats).items():
            store.keep("growth", name, key, row)


def draw(points: dict[str, dict[str, tuple[list[float], list[float]]]], path: Path) -> None:
    """Step time on every axis, logarithmic both ways; points: axis -> variant -> (xs, seconds)."""
    from matplotlib.figure import Figure
    from matplotlib.ticker import NullFormatter, ScalarFormatter

    figure = Figure(figsize=(9, 6.5), dpi=110, layout="constrained")
    for axes, (axis, lines) in zip(figure.subplots(2, 2).flat, points.items(), strict=False):
        for variant, (xs, ys) in lines.items():
            axes.plot(xs, ys, marker="o", markersize=4, label=variant)
        axes.set_xscale("log", base=2)
        axes.set_yscale("log")
        for formatted in (axes.xaxis, axes.yaxis):
            formatted.set_major_formatter(ScalarFormatter())
            formatted.set_minor_formatter(NullFormatter())
        axes.yaxis.set_minor_formatter(ScalarFormatter())
        axes.set_ylim(bottom=0.5 * min(min(ys) for _, ys in lines.values()))
        axes.set_xlabel(AXES[axis].label)
        axes.set_ylabel("s/step")
        axes.grid(alpha=0.25, which="both")
        axes.legend(frameon=False, fontsize=8)
    figure.savefig(path)
