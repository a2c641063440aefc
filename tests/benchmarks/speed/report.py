"""The stored results as one Markdown document with its plot."""

from __future__ import annotations

from pathlib import Path
from statistics import median

from tests.benchmarks.speed import conclusion, growth
from tests.benchmarks.speed.goals import Results, goal_rows, good, rows_of, setup
from tests.benchmarks.speed.models import SPECS
from tests.benchmarks.speed.ratios import (
    count,
    exponent,
    markdown,
    paired,
    spread,
    step_seconds,
)
from tests.benchmarks.speed.store import load_all
from tests.benchmarks.speed.variants import VARIANTS

FILE = "performance.md"
COMMAND = "python -m nox -s bench -- --report"
TITLES = {name: spec.title for name, spec in SPECS.items()}
HOW = f"""All of this is measured in the real host, on models of real shape with random weights, on
a CPU. A graphics card was not measured. torch.compile is [measured apart](options.md#torchcompile);
on a CPU it brings nothing. This command prints the page from the stored results.
Without `--report` it first measures what is missing there, which takes hours:

```
{COMMAND}
```"""
READING = """All variants get the same latents, caption, dtype and rank 64. *Limit* is forward and
backward of the frozen model with gradients up to the output of every attention layer: what no
trainer of these layers can do without. Ours and PEFT adapt the attention layers, the built-in
trainer adapts every layer, norm and bias, as it always does; so does *every layer* of ours, but for
norms and biases. *adaptive* and *paper* start at rank 64, so that all modes have the same ranks;
*first steps* is how an adaptive run starts by default, at rank 256 (its seconds were measured at
192); the goals of memory and setup are judged by it. An adaptive step has its share of the reviews
of all ranks in a run of default length.

Variants take turns, each in a process of its own, and the second step of each turn counts, when the
caches hold its own data again; the ratio is the median of the rounds, with its range. Peak memory
is what a whole run (three steps and the finished adapter) takes above the loaded model, in a
process of its own, as a share of the model's size. At SDXL it was measured on a CPU without bf16
arithmetic: products were computed in fp32 there, which adds the operands of one of them, and
tensors had pages of their own, so that no holes between them count, for all variants alike; the
built-in trainer over ours, among the goals, is from the last steps of these runs. Setup is the time
from the start of the node to its first forward pass, at SDXL the median of several starts that were
left there; the built-in trainer's second copy of the model is made in memory here, where the host
would read it from the disk. The steps of SD1.5 and SDXL were taken in one process, all of them
counted. At the 111 M shape the steps of limit, fixed, adaptive and PEFT were taken last, on the
machine with one thread, beside other programs."""
PROFILE = """Where the time goes, by torch's profiler, one variant after another (so the sums are a
little longer than the steps above, and do not pair):"""

MISSES = """What is missed, and why, by the profiles below:

- To each adapted layer a step of ours adds six low-rank products, where the limit has two full
  ones. At the 111 M shape these are of rank 64, in layers that are 128 to 512 wide. Most of what
  lies above the limit is matrix products: arithmetic that a LoRA of this rank can't do without. In
  the wider layers of SD1.5 and SDXL it is a smaller share.
- PEFT does the same arithmetic with more casts and copies. Where arithmetic is most of the step, no
  fifth can be gained over it.
- *adaptive* does more than *fixed*: the reviews (all positions of the model compared, every tenth
  of a run), the product of Λ and lora_down and its gradient, and, while rates move, keeping each
  update as it is.
- Setup at SDXL's shape: an adaptive run begins above the target rank, and the random rows of 560
  layers at rank 256 are made orthogonal. QR takes half of the time. Most of the rest is a pass
  without gradients, which sees whether the captions suit the model."""


def step_table(results: Results, model: str) -> str:
    """Time and memory of every variant of a model."""
    steps, memory, alone = (rows_of(results, p, model) for p in ("steps", "memory", "setup"))
    lines, notes = [], []
    for name in VARIANTS:
        row, probe = steps.get(name, {}), memory.get(name, {})
        if not row and not probe and name not in alone:
            continue
        if error := row.get("error") or probe.get("error"):
            notes.append(f"*{name}* failed: {error}")
        line = [name]
        if row.get("seconds") and row.get("limit"):
            seconds = step_seconds(row)
            line += [paired(seconds, row["limit"]).text(), spread(seconds).text(3)]
        else:
            line += ["–", "failed" if "error" in row else "–"]
        if good(memory, name):
            line += [f"{probe['peak'] / probe['frozen']:.2f}", count(probe["parameters"])]
        else:
            line += ["failed" if "error" in probe else "–", "–"]
        begun = setup(results, model, name)
        lines.append([*line, "–" if begun is None else f"{begun:.2f}"])
    head = ["", "step / limit", "s/step", "peak / model", "adapter parameters", "setup s"]
    return "\n\n".join([markdown(head, lines), *notes])


def profile_table(results: Results, model: str) -> str:
    """Seconds of a step by kind of work, variants side by side."""
    rows = {
        v: row["kinds"] for v, row in rows_of(results, "profile", model).items() if "kinds" in row
    }
    kinds = next(iter(rows.values()))
    lines = [[kind, *(f"{row[kind]:.3f}" for row in rows.values())] for kind in kinds]
    lines.append(["together", *(f"{sum(row.values()):.3f}" for row in rows.values())])
    return markdown(["s/step", *rows], lines)


def size_of(model: str) -> str:
    spec = SPECS[model]
    kind = str(spec.dtype).removeprefix("torch.")
    return f"{spec.size} × {spec.size} latents, batch 1, {kind}."


def journey_table(results: Results) -> str:
    rows = rows_of(results, "journey", "playground")
    lines = [
        [way, spread(row["seconds"]).text(1) if "seconds" in row else row["error"]]
        for way, row in rows.items()
    ]
    steps = next(iter(rows.values()))["steps"]
    return markdown(
        [f"{steps} steps on the playground, rank 64", "s from node start to saved file"], lines
    )


def growth_points(results: Results) -> dict[str, dict[str, tuple[list[float], list[float]]]]:
    """Axis -> variant -> (sizes, median seconds), of what could be measured."""
    points: dict[str, dict] = {}
    for stem in ("small", "playground"):
        rows = rows_of(results, "growth", stem)
        for key in rows:
            axis, variant, value = key.split()
            if good(rows, key):
                xs, ys = points.setdefault(axis, {}).setdefault(variant, ([], []))
                xs.append(float(value))
                ys.append(median(step_seconds(rows[key])))
        if points:
            break
    return points


def growth_table(points: dict) -> str:
    """Exponent b of seconds = a size^b on every axis."""
    lines = []
    for axis, variants in points.items():
        for variant, (xs, ys) in variants.items():
            if len(xs) > 1:
                span = f"{xs[0]:g} to {xs[-1]:g}"
                times = f"{ys[0]:.3f} to {ys[-1]:.3f}"
                label = growth.AXES[axis].label
                lines.append([label, variant, span, times, f"{exponent(xs, ys):.2f}"])
    return markdown(["size", "trainer", "from, to", "s/step", "exponent"], lines)


def loading_table(results: Results) -> str:
    rows: dict[str, dict] = {}
    for model in SPECS:
        rows = rows_of(results, "loading", model) | rows
    lines = []
    for way in ("ours", "stock"):
        row = rows.get(way, {"error": "–"})
        if "error" in row:
            lines.append([way, row["error"], "–", "–"])
            continue
        told = [spread(row[key]).text() for key in ("applied", "seconds")]
        lines.append([way, *told, f"{median(row['peak']) / 1e6:.0f}"])
    head = ["file at rank 64", "s until applied", "s until first forward", "peak MB"]
    text = markdown(head, lines)
    if good(rows, "keep"):
        row = rows["keep"]
        text += (
            f"\n\nMoving `keep` to 0.5 on a loaded adapter of {row['megabytes']:.0f} MB "
            f"(rank {row['rank']}) and applying it: {spread(row['seconds']).text()} s."
        )
    return text


def machine_text(results: Results) -> str:
    """The machine of each result, told once where it is the same."""
    found = {
        f"{m['device']} ({m['processor']}, {m['cores']} cores, {m['threads']} threads, "
        f"{m.get('gigabytes', '?')} GB), torch {m['torch']}, Python {m['python']}"
        for m in (kept["machine"] for kept in results.values())
    }
    repeats = sorted({kept["settings"]["repeats"] for kept in results.values()})
    return f"Measured on: {'; '.join(sorted(found))}. Rounds: {', '.join(map(str, repeats))}."


def write(folder: Path, target: Path) -> str:
    """Writes the document and its plot to `target`; returns the text."""
    results = load_all(folder)
    if not results:
        return f"There are no results in {folder}: run `nox -s bench` first."
    target.mkdir(parents=True, exist_ok=True)
    parts = ["# Performance", conclusion.text(results, TITLES), HOW, machine_text(results)]
    parts.append("## Goals")
    head = ["goal", "model", "wanted", "measured", "met"]
    parts += [markdown(head, goal_rows(results, TITLES)), MISSES]
    parts += ["## A step, side by side", READING]
    for model in SPECS:
        if rows_of(results, "steps", model) or rows_of(results, "memory", model):
            parts += [f"### {TITLES[model]}", size_of(model), step_table(results, model)]
        if rows_of(results, "profile", model):
            parts += [PROFILE, profile_table(results, model)]
    if rows_of(results, "journey", "playground"):
        parts += ["## The whole way", journey_table(results)]
    if points := growth_points(results):
        growth.draw(points, target / growth.FILE)
        parts += ["## Growth", growth_table(points), f"![Step time against size]({growth.FILE})"]
    if any(rows_of(results, "loading", model) for model in SPECS):
        parts += ["## Loading", loading_table(results)]
    text = "\n\n".join(parts) + "\n"
    (target / FILE).write_text(text)
    return text
