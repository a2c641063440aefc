"""Seconds of a step: variants take turns, so that a slow spell of the machine meets them all."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import comfy.model_management
import torch

from lora2_core import TrainSettings
from tests.benchmarks.speed.far_pace import FarPace
from tests.benchmarks.speed.models import SPECS
from tests.benchmarks.speed.pace import Pace

SCHEDULE = TrainSettings().steps  # that a run is told to have
WARMUP = 4  # steps before the measured ones: an adaptive run's first review lies among them
SETTLE = 1  # steps before each measured one: others had the caches in between


def steps_of(repeats: int) -> int:
    """How many steps a trainer is told to do, so that it never comes to its end."""
    return max(SCHEDULE, WARMUP + (SETTLE + 1) * repeats + 1)


def take_turns(paces: Mapping[str, Pace | FarPace], repeats: int) -> dict[str, dict]:
    """Runs every trainer in turns of a few steps, of which the last is measured, each round
    beginning with the next one.

    Returns seconds of the measured steps, of the reviews, and until the first step was done; or the
    error of a trainer that failed, which then takes no further turn.
    """
    found: dict[str, dict] = {}
    names = list(paces)
    # as the built-in trainer does, for the whole process: some models compute otherwise then
    comfy.model_management.in_training = True
    for turn in range(WARMUP + repeats):
        for name in names[turn % len(names) :] + names[: turn % len(names)]:
            if name not in found:
                try:
                    for _ in range(1 if turn < WARMUP else SETTLE + 1):
                        paces[name].advance()
                except Exception as error:
                    found[name] = {"error": sentence(error)}
    for name, pace in paces.items():
        pace.leave()
        comfy.model_management.in_training = False
        if name not in found:
            found[name] = {
                "seconds": pace.seconds[WARMUP + SETTLE :: SETTLE + 1],
                "reviews": pace.reviews,
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
    """Times the variants of a model, each in a process of its own as a user's trainer is; a large
    one's pair by pair with the limit, since more do not fit together. keep(variant, row) is called
    as soon as a row is known.
    """
    groups = [variants]
    if SPECS[name].large or torch.cuda.is_available():
        groups = [[v] for v in variants if v != "limit"]
    for group in groups:
        order = ["limit", *(v for v in group if v != "limit")]
        rows = take_turns({v: FarPace(name, v, steps_of(repeats)) for v in order}, repeats)
        for variant, row in rows.items():
            keep(variant, row | {"limit": rows["limit"].get("seconds", [])})
