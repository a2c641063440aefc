"""Seconds of a step: variants take turns in one process, so that a slow spell meets them all."""

from __future__ import annotations

import gc
from collections.abc import Callable

import comfy.model_management
import torch

from lora2_core import TrainSettings
from lora2_core.pricing import FIRST, LAST, REVIEWS
from tests.benchmarks.speed.models import SPECS, build, pictures, twin
from tests.benchmarks.speed.pace import Pace, Work
from tests.benchmarks.speed.variants import VARIANTS, Job

SCHEDULE = TrainSettings().steps  # that a run is told to have
WARMUP = 4  # steps before the measured ones: an adaptive run's first review lies among them
SETTLE = 1  # steps before each measured one: others had the caches in between
REVIEWS_PER_STEP = REVIEWS * (LAST - FIRST) / SCHEDULE


def take_turns(works: dict[str, Work], repeats: int, warmup: int = WARMUP) -> dict[str, dict]:
    """Runs every work in turns of a few steps, of which the last is measured, each round beginning
    with the next work.

    Returns seconds of the measured steps, of the reviews, and until the first step was done; or the
    error of a work that failed, which then takes no further turn.
    """
    steps = max(SCHEDULE, warmup + (SETTLE + 1) * repeats + 1)
    paces = {name: Pace(work, steps) for name, work in works.items()}
    found: dict[str, dict] = {}
    names = list(works)
    # as the built-in trainer does, for the whole process: some models compute otherwise then
    comfy.model_management.in_training = True
    for turn in range(warmup + repeats):
        for name in names[turn % len(names) :] + names[: turn % len(names)]:
            if name not in found:
                try:
                    for _ in range(1 if turn < warmup else SETTLE + 1):
                        paces[name].advance()
                except Exception as error:
                    found[name] = {"error": sentence(error)}
    for name, pace in paces.items():
        pace.leave()
        comfy.model_management.in_training = False
        if name not in found:
            found[name] = {
                "seconds": pace.seconds[warmup + SETTLE :: SETTLE + 1],
                "reviews": pace.reviews,
                "reviews_per_step": REVIEWS_PER_STEP,
                "first": pace.seconds[0],
            }
    return {name: found[name] for name in names}


def sentence(error: BaseException) -> str:
    """The first line of an error, with its kind."""
    if isinstance(error, ModuleNotFoundError):
        return f"package {error.name} is not installed"
    lines = str(error).strip().splitlines() or [""]
    return f"{type(error).__name__}: {lines[0][:120]}"


def measure(
    name: str, repeats: int, keep: Callable[[str, dict], None], variants: list[str]
) -> None:
    """Times the variants of a model; a large one's pair by pair with the limit, since their
    adapters do not fit together, and on a GPU too, where loading one model unloads the others.
    keep(variant, row) is called as soon as a row is known.
    """
    model = build(name)
    groups = [variants]
    if SPECS[name].large or torch.cuda.is_available():
        groups = [[v] for v in variants if v != "limit"]
    for group in groups:
        order = ["limit", *(v for v in group if v != "limit")]
        data = pictures(name)
        works = {v: VARIANTS[v](Job(twin(model), *data, SPECS[name].targets)) for v in order}
        rows = take_turns(works, repeats)
        for variant, row in rows.items():
            keep(variant, row | {"limit": rows["limit"].get("seconds", [])})
        del works
        gc.collect()
