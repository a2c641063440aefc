"""What the benchmark is to show, as numbers with a bound."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from statistics import median

from tests.benchmarks.speed.ratios import paired, step_seconds

Results = dict[str, dict]  # file name without its ending -> what is stored there
BEGINS = "adaptive, first steps"  # as a run begins by default: the longest setup, the highest peak


def rows_of(results: Results, part: str, model: str) -> dict[str, dict]:
    return results.get(f"{part}-{model}", {}).get("rows", {})


def good(rows: dict[str, dict], *names: str) -> bool:
    """Whether all these were measured."""
    return all(name in rows and "error" not in rows[name] for name in names)


def against_limit(row: dict) -> float:
    return paired(step_seconds(row), row["limit"]).middle


def step_ratio(results: Results, model: str, slow: str, fast: str) -> float | None:
    """Seconds of a step of one variant over another's, each against the limit of its own rounds."""
    rows = rows_of(results, "steps", model)
    if not good(rows, slow, fast, "limit"):
        return None
    return against_limit(rows[slow]) / against_limit(rows[fast])


def run_ratio(results: Results, model: str, slow: str, fast: str) -> float | None:
    """The same from whole short runs, one after the other, where steps were not taken in turn."""
    rows = rows_of(results, "memory", model)
    if not good(rows, slow, fast):
        return None
    return rows[slow]["seconds"][-1] / rows[fast]["seconds"][-1]


def peak_ratio(results: Results, model: str) -> float | None:
    rows = rows_of(results, "memory", model)
    if not good(rows, BEGINS, "built-in"):
        return None
    return rows[BEGINS]["peak"] / rows["built-in"]["peak"]


def setup(results: Results, model: str, variant: str = BEGINS) -> float | None:
    """As measured by itself, or where it was not, in the run that measured the memory."""
    alone, whole = rows_of(results, "setup", model), rows_of(results, "memory", model)
    if good(alone, variant):
        return median(alone[variant]["seconds"])
    return whole[variant]["setup"] if good(whole, variant) else None


def capacity(results: Results, model: str) -> float | None:
    """Step time at max_rank 512 over that at 64."""
    rows = rows_of(results, "growth", model)
    few, many = "max_rank adaptive 64", "max_rank adaptive 512"
    if not good(rows, few, many):
        return None
    return paired(step_seconds(rows[many]), step_seconds(rows[few])).middle


def loading(results: Results, model: str) -> float | None:
    rows = rows_of(results, "loading", model)
    if not good(rows, "ours", "stock"):
        return None
    return median(rows["ours"]["seconds"]) / median(rows["stock"]["seconds"])


def keep(results: Results, model: str) -> float | None:
    rows = rows_of(results, "loading", model)
    return median(rows["keep"]["seconds"]) if good(rows, "keep") else None


@dataclass(frozen=True)
class Goal:
    """A measure of one model, and the most (or, where `least`, the least) that it should be."""

    text: str
    measure: Callable[[Results, str], float | None]
    bound: float
    models: tuple[str, ...] = ("small",)
    least: bool = False

    def met(self, value: float) -> bool:
        return value >= self.bound if self.least else value <= self.bound


def of_limit(results: Results, model: str) -> float | None:
    return step_ratio(results, model, "adaptive", "limit")


def of_built_in(results: Results, model: str) -> float | None:
    pair = "built-in", "adaptive"
    in_turn = step_ratio(results, model, *pair)
    return run_ratio(results, model, *pair) if in_turn is None else in_turn


def of_peft(results: Results, model: str) -> float | None:
    return step_ratio(results, model, "PEFT", "adaptive")


def of_fixed(results: Results, model: str) -> float | None:
    return step_ratio(results, model, "adaptive", "fixed")


ALL = ("small", "sd15", "sdxl")
GOALS = (
    Goal("step, ours / limit", of_limit, 1.10, ("sd15", "sdxl")),
    Goal("step, ours / limit", of_limit, 1.20),
    Goal("step, built-in / ours", of_built_in, 2.0, ALL, least=True),
    Goal("step, PEFT / ours", of_peft, 1.2, ALL, least=True),
    Goal("peak memory above the loaded model, ours / built-in", peak_ratio, 0.5, ALL),
    Goal("step, adaptive / fixed at the same mean rank", of_fixed, 1.03, ALL),
    Goal("step, max_rank 512 / 64 at the same active ranks", capacity, 1.05),
    Goal("LoRA file to first patched forward, ours / stock", loading, 1.0),
    Goal("moving keep on a 400 MB adapter, s", keep, 1.0, ("sdxl",)),
    Goal("node start to first step, s", setup, 3.0, ("sdxl", "small")),
)


def goal_rows(results: Results, titles: dict[str, str]) -> list[list[str]]:
    """goal | model | at most or at least | measured | met."""
    lines = []
    for goal in GOALS:
        for model in goal.models:
            value = goal.measure(results, model)
            bound = f"{'≥' if goal.least else '≤'} {goal.bound:g}"
            told = ["not measured", ""]
            if value is not None:
                told = [f"{value:.2f}", "yes" if goal.met(value) else "no"]
            lines.append([goal.text, titles[model], bound, *told])
    return lines
