"""Experiment H: all layers in the model's blocks under one size, against plain LoRA and the rivals
(rivals.py) on the same layers, and against attention alone. Experiment I asks the same, without the
rivals, on the second base.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Collection
from dataclasses import replace

from tests.benchmarks.ranks import quality
from tests.benchmarks.ranks import rivals as others
from tests.benchmarks.ranks.plan import Plan
from tests.benchmarks.ranks.quality import LOSSES, NAMES, Quality, column, geometric, markdown
from tests.benchmarks.ranks.runs import FLOW, Ledger, Run
from tests.benchmarks.ranks.statistics import (
    Point,
    Values,
    difference,
    envelope,
    geometric_mean,
    over_subjects,
)
from tests.benchmarks.ranks.tuning import RIVAL_CLASSES, WIDE, tuned

RESULT = "background"  # the loss that decides
# a size has no further seeds once 1 lies so many times the half of the 95 % interval away from the
# ratio: 99 % for six subjects, since it is looked at after each seed
DECIDED = 1.57
ABOUT_RIVALS = (
    'The controls from "rank 64" on have as many steps and at most the bytes of that mean rank. '
    "Their learning rates, and which way of several is claimed, are chosen on the tuning subjects "
    f"at mean rank {others.TUNED_RANK} and used at all sizes. Before it is compressed, rank "
    f"{others.FULL_RANK} has a learning rate of {others.FIRST_RATE:g}. LoKr and OFT are those of "
    "lycoris-lora, with the setting whose file comes nearest to the size. A file of OFT holds "
    "blocks of which one half says all. A control without a row has its loss on the tuning "
    "subjects alone, at the end of this page. Seconds of the controls are of a busy machine."
)


def run_of(plan: Plan, pair: tuple[str, int], size: tuple[str, int, float], rates: dict) -> Run:
    """Returns the run of a subject and seed at one of plan.wide_sizes, at its learning rate."""
    run = replace(plan.run(pair, *size), layers=WIDE, samples=False, cuts=())
    return tuned(run, rates)


def rival_runs(plan: Plan, rates: dict) -> list[Run]:
    """Returns the runs of the rivals on the playground, of each family by its best way: the size
    that they are tuned at first, one seed after the other.
    """
    if plan.base_model == FLOW:
        return []
    losses = {c.method: rates[c.name]["loss"] for c in RIVAL_CLASSES if c.name in rates}
    sizes = [
        (method, cuts, size)
        for size in others.SIZES
        for method in others.claimed(losses)
        for cuts in [others.cuts_of(method)]
        if (method, size[0] * size[1]) not in others.TOO_SMALL
    ]
    found = []
    for seed in range(plan.seeds):
        for method, cuts, (rank, share) in sizes:
            at = (others.FULL_RANK, 1.0) if cuts else (rank, share)
            for subject in plan.subjects:
                run = run_of(plan, (subject, seed), (method, *at), rates)
                found.append(replace(run, cuts=cuts))
    return list(dict.fromkeys(found))


def runs(plan: Plan, rates: dict) -> list[Run]:
    """Returns all runs: sizes from small to large, each on all subjects before the next seed. On
    the second base, which has no other experiment, also those of attention alone.
    """
    wanted = [plan.base(subject) for subject in plan.subjects]
    for seed in range(plan.seeds):
        for size in plan.wide_sizes:
            wanted += [run_of(plan, (subject, seed), size, rates) for subject in plan.subjects]
        wanted += [run for run in rival_runs(plan, rates) if run.seed == seed]
        if plan.base_model == FLOW:
            wanted += [run for run in plan.quality(rates) if run.seed == seed]
    return wanted


def undecided(plan: Plan, ledger: Ledger, rates: dict, seed: int) -> list[Run]:
    """Returns the runs of one more seed, without those of all layers at sizes where the seeds so
    far have decided whether `adaptive` is better than plain LoRA of that rank.
    """
    found = collect(plan, ledger, rates)
    settled = set()
    for method, size in found.sizes:
        if method == "adaptive" and ("fixed", size) in found.sizes:
            both = (found.log((m, size), RESULT) for m in ("adaptive", "fixed"))
            between = difference(*both)
            if abs(between.mean) > DECIDED * between.half:
                settled.add((method, size))
                settled.add(("fixed", size))
    return [
        run
        for run in runs(plan, rates)
        if run.seed == seed
        and not (seed and run.layers == WIDE and (run.method, run.rank * run.share) in settled)
    ]


def collect(plan: Plan, ledger: Ledger, rates: dict) -> Quality:
    """Returns what is there of each method and size; not every pair has all of them. Rivals count
    once they have every subject.
    """
    points: dict = defaultdict(dict)
    for size in plan.wide_sizes:
        for pair in plan.pairs:
            for row in ledger.of(run_of(plan, pair, size, rates)):
                points[size[0], size[1] * size[2]][pair] = row
    for run in rival_runs(plan, rates):
        for row in ledger.of(run)[bool(run.cuts) :]:  # of what is to be cut, the cuts alone
            cut = row["config"]["cut"]
            size = cut[1] if cut else run.rank * run.share
            points[run.method, size][run.pictures, run.seed] = row
    complete = {
        key: rows
        for key, rows in points.items()
        if key[0] not in others.METHODS or {s for s, _ in rows} == set(plan.subjects)
    }
    return Quality(complete, {})


def best_of(attention: Quality) -> tuple[str, float]:
    """Returns the method and size with the lowest loss where attention alone is trained."""
    return min(attention.sizes, key=lambda k: over_subjects(attention.log(k, RESULT)).mean)


def compared(ours: Values, theirs: Values) -> str:
    """Returns a paired ratio with its interval, and how often ours is lower."""
    mean, low, high = difference(ours, theirs).exp()
    both = [pair for pair in ours if pair in theirs]
    wins = sum(ours[pair] < theirs[pair] for pair in both)
    interval = "" if math.isnan(low) else f" ({low:.3f} to {high:.3f})"
    return f"{mean:.3f}{interval}, {wins} of {len(both)}"


def rivals(wide: Quality, attention: Quality, size: float) -> dict[str, Values]:
    """Returns what `adaptive` at a size is compared with: the logarithms of the loss, by name."""
    ours, found = wide.point(("adaptive", size), RESULT), {}
    for method, theirs in wide.sizes:
        if theirs == size and method != "adaptive":
            same = "same layers and rank" if method == "fixed" else "same layers"
            found[f"{NAMES[method]}, {same}"] = wide.log((method, size), RESULT)
    if (control := best_control(wide, size)) is not None:
        found[f"the best of these of its bytes ({control[0]})"] = control[1]
    if attention.pairs:
        there = {pair: mb for pair, mb in ours.mb.items() if pair in attention.pairs}
        if there:
            found["attention alone, best of its bytes"] = envelope(
                attention.controls(RESULT) | {"adaptive": of_adaptive(attention)}, there
            )[1]
            found["attention alone, at its best size"] = attention.log(best_of(attention), RESULT)
    return found


def has_rivals(wide: Quality) -> bool:
    return any(method in others.METHODS for method, _ in wide.points)


def best_control(wide: Quality, size: float) -> tuple[str, Values] | None:
    """Returns the best control on the same layers that is no larger than `adaptive` at a size, of
    the pairs that all of them have at their nearest size: its name and the logarithms of its loss.
    None without rivals, or where no control is that small.
    """
    mb = wide.point(("adaptive", size), RESULT).mb
    small = {method for method, least in wide.sizes if least <= size} - {"adaptive"}
    nearest: dict[str, dict] = {}
    for key in sorted(wide.sizes, key=lambda key: -abs(math.log(key[1] / size))):
        if key[0] in small:
            nearest[key[0]] = wide.points[key]
    there = {pair: mb[pair] for pair in mb if all(pair in rows for rows in nearest.values())}
    if not small or not there or not has_rivals(wide):
        return None
    controls: dict[str, list[Point]] = defaultdict(list)
    for method, theirs in wide.sizes:
        point = wide.point((method, theirs), RESULT)
        if method in small and point.log.keys() >= there.keys():
            controls[NAMES[method]].append(point)
    return envelope(controls, there)


def of_adaptive(attention: Quality) -> list:
    return [attention.point(k, RESULT) for k in attention.sizes if k[0] == "adaptive"]


def table(wide: Quality, attention: Quality) -> str:
    """Returns the losses of each method and size, and the ratios."""
    if not wide.points:
        return "Nothing is there yet."
    keys = wide.sizes
    columns = [column([wide.log(k, m) for k in keys], geometric) for m in LOSSES]
    lines = []
    for key, losses in zip(keys, zip(*columns, strict=True), strict=True):
        rows = wide.points[key]
        mb = f"{geometric_mean(wide.log(key, 'mb')):.4f}"
        seconds = over_subjects(wide.values(key, "seconds")).mean
        cells = [NAMES[key[0]], f"{key[1]:g}", mb, spread(rows.values()), f"{len(rows)}", *losses]
        lines.append([*cells, f"{seconds:.0f}"])
    for method, size in sorted(others.TOO_SMALL):
        if any(key[0] == method for key in keys):
            lines.append([NAMES[method], f"{size:g}", others.NO_SETTING, *[""] * (3 + len(LOSSES))])
    head = ["method", "mean rank", "MB", "ranks or setting", "runs", *LOSSES.values(), "s"]
    parts = [markdown(head, lines)]
    if has_rivals(wide):
        parts.append(ABOUT_RIVALS)
    compare = []
    for method, size in keys:
        if method == "adaptive":
            ours = wide.log((method, size), RESULT)
            compare += [
                [f"{size:g}", f"{geometric_mean(wide.log((method, size), 'mb')):.4f}", name, text]
                for name, theirs in rivals(wide, attention, size).items()
                if (text := compared(ours, theirs))
            ]
    parts += [
        "`adaptive` on all layers, unseen backgrounds (ratio of losses, below 1 is better, and how "
        "often it is lower):",
        markdown(["mean rank", "MB", "over", "ratio"], compare),
    ]
    if others_losses := over_plain(wide):
        parts += [
            "`adaptive` over plain LoRA, same layers and rank, on all pictures:",
            markdown(["mean rank", *LOSSES.values()], others_losses),
        ]
    return "\n\n".join(parts)


def over_plain(wide: Quality) -> list[list[str]]:
    """Returns the ratios of all losses over those of plain LoRA, a line for each size."""
    both = [size for method, size in wide.sizes if method == "adaptive"]
    keys = [
        (("adaptive", size), ("fixed", size)) for size in both if ("fixed", size) in wide.points
    ]
    return [
        [f"{ours[1]:g}", *(compared(wide.log(ours, m), wide.log(plain, m)) for m in LOSSES)]
        for ours, plain in keys
    ]


def spread(rows: Collection[dict]) -> str:
    """Returns the lowest and the highest rank of all layers, or the setting of another kind."""
    first = next(iter(rows))
    if "setting" in first:
        told = {k: v for k, v in first["setting"].items() if v is not False and k != "alpha"}
        return ", ".join(k if v is True else f"{k} {v}" for k, v in told.items())
    ranks = [rank for row in rows for rank in row["ranks"]]
    return f"{min(ranks)} to {max(ranks)}" if min(ranks) < max(ranks) else f"{ranks[0]}"


def second_table(plan: Plan, ledger: Ledger, rates: dict) -> str:
    """Returns experiment I: the tables of H, and those of attention alone, on the second base."""
    attention = quality.collect(plan, ledger, rates)
    parts = [
        "The base is a transformer of ComfyUI's class SD3 (rectified flow; "
        "`python -m nox -s train-flow` trains it). It has the pictures, the captions, the text "
        f"encoder and the autoencoder of the playground. Every run has {plan.steps} steps of "
        "batch 8; `--base flow --only H` runs them.",
        table(collect(plan, ledger, rates), attention),
    ]
    if attention.pairs:
        parts += [
            "Attention alone on this base:", quality.loss_table(attention),
            "Adaptive over plain LoRA, attention alone, unseen backgrounds:",
            quality.ratio_table(attention, RESULT),
        ]  # fmt: skip
    return "\n\n".join(parts)


def about(
    wide: Quality,
    attention: Quality,
    title: str = "All layers, not attention alone",
    letter: str = "H",
) -> str | None:
    """Returns what the experiment comes to; None where a part is missing."""
    sizes = sorted(size for method, size in wide.points if method == "adaptive")
    if not sizes or not attention.pairs:
        return None
    best = best_of(attention)
    there = geometric_mean(attention.log(best, "mb"))
    said = []
    for size in sizes:
        ours = wide.log(("adaptive", size), RESULT)
        ratio = compared(ours, attention.log(best, RESULT))
        plain = ""
        if ("fixed", size) in wide.points:
            plain = f", {compared(ours, wide.log(('fixed', size), RESULT))} over plain LoRA there"
        if (control := best_control(wide, size)) is not None:
            ratio_there = compared(ours, control[1])
            plain += f", {ratio_there} over the best control there ({control[0]})"
        said.append(f"{geometric_mean(wide.log(('adaptive', size), 'mb')):.2f} MB: {ratio}{plain}")
    return (
        f"**{title}.** Loss of `adaptive` on all layers in blocks, unseen "
        f"backgrounds, over the best of attention alone at any size ({NAMES[best[0]]} {best[1]:g}, "
        f"{there:.2f} MB): {'; '.join(said)}. ({letter})"
    )
