"""What the tables of docs/performance.md come to: sentences and a table from the same results."""

from __future__ import annotations

from statistics import median

from tests.benchmarks.speed.goals import (
    BEGINS,
    Results,
    goal_rows,
    good,
    loading,
    rows_of,
    setup,
    step_ratio,
)
from tests.benchmarks.speed.models import SPECS
from tests.benchmarks.speed.ratios import markdown

GIGABYTE = 1e9
MODELS = ("sd15", "sdxl", "small")  # the goals are about these
PICTURES = 64  # latents of 512 pixels: the width of the models in the table of memory
TRAINERS = {  # of the table of steps: heading -> variant
    "LoRA², *adaptive*": "adaptive",
    "PEFT": "PEFT",
    "ComfyUI's built-in trainer": "built-in",
}
COLUMNS = {  # of the table of memory: heading -> variant
    "as a run began by default": BEGINS,
    "with `start_rank` 64": "adaptive",
    "ComfyUI's built-in trainer": "built-in",
}


def step_table(results: Results, titles: dict[str, str]) -> str | None:
    """Returns what a step costs, in forward and backward passes of the frozen model; None where no
    model of the goals was measured.
    """
    lines = []
    for model in MODELS:
        ratios = [step_ratio(results, model, variant, "limit") for variant in TRAINERS.values()]
        if any(ratio is not None for ratio in ratios):
            cells = ("–" if ratio is None else f"{ratio:.2f}" for ratio in ratios)
            lines.append([titles[model], *cells])
    if not lines:
        return None
    head = ["seconds of a step over those of the frozen model's forward and backward", *TRAINERS]
    return markdown(head, lines)


def about_time(results: Results, titles: dict[str, str]) -> list[str]:
    """Returns how long the start, a short run and loading take."""
    found = []
    begins = [
        f"{seconds:.1f} s on {titles[model]}"
        for model in ("sdxl", "small")
        if (seconds := setup(results, model)) is not None
    ]
    if begins:
        found.append(f"**The first step** begins after {', after '.join(begins)}.")
    ways = rows_of(results, "journey", "playground")
    if good(ways, "ours", "built-in"):
        ours, theirs = (median(ways[way]["seconds"]) for way in ("ours", "built-in"))
        found.append(
            f"**{ways['ours']['steps']} steps on the playground**, from the start of the node to "
            f"the saved file: {ours:.0f} s, with the built-in trainer {theirs:.0f} s."
        )
    if (ratio := loading(results, "small")) is not None:
        found.append(
            "**LoRA² Load**, which checks the file, takes "
            f"{ratio:.2f} times as long as the stock loader, until the first picture."
        )
    return found


def about_goals(results: Results, titles: dict[str, str]) -> list[str]:
    """Returns how many goals are met, of those that were measured."""
    met = [row[-1] for row in goal_rows(results, titles) if row[-1]]
    return [f"**{met.count('yes')} of {len(met)} goals** are met ([the others](#goals))."] * bool(
        met
    )


def memory_table(results: Results, titles: dict[str, str]) -> str | None:
    """Returns the peak memory above the loaded model in GB, of the models that were measured at
    512 pixels.
    """
    lines = []
    for model, spec in SPECS.items():
        rows = rows_of(results, "memory", model)
        if spec.size != PICTURES or not good(rows, *COLUMNS.values()):
            continue
        peaks = [rows[variant]["peak"] / GIGABYTE for variant in COLUMNS.values()]
        loaded = rows[BEGINS]["frozen"] / GIGABYTE
        lines.append([titles[model], *(f"{gigabytes:.1f} GB" for gigabytes in (loaded, *peaks))])
    if not lines:
        return None
    head = ["peak memory above the loaded model, 512 pixels, batch 1, `target_rank` 64"]
    return markdown([*head, "the model itself", *COLUMNS], lines)


def text(results: Results, titles: dict[str, str]) -> str:
    """Returns a list of sentences, then the tables of steps and of memory; titles: of the
    models.
    """
    sentences = [
        "**A training step costs little more than the frozen model's own forward and backward**, "
        "and a fraction of what ComfyUI's built-in trainer takes, which adapts every layer.",
        *about_time(results, titles),
        *about_goals(results, titles),
    ]
    tables = step_table(results, titles), memory_table(results, titles)
    lines = "\n".join(f"- {sentence}" for sentence in sentences)
    return "\n\n".join(filter(None, [lines, *tables]))
