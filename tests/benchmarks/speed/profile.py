"""Where the time of a step goes: torch's profiler, by kind of work."""

from __future__ import annotations

import gc
from collections.abc import Callable

import comfy.model_management
from torch.profiler import profile

from tests.benchmarks.speed.models import SPECS, build, pictures, twin
from tests.benchmarks.speed.pace import Pace, Work
from tests.benchmarks.speed.timing import sentence
from tests.benchmarks.speed.variants import VARIANTS, Job

WARMUP, STEPS = 4, 3
PROFILED = ("limit", "fixed", "adaptive", "PEFT")
# kind -> parts of the names of torch's operators; the first that fits counts
KINDS = {
    "attention": ("scaled_dot_product", "flash_attention"),
    "convolutions": ("conv",),
    "matrix products": ("mm", "linear", "bmm"),
    "optimizer": ("adam",),
    "copies and casts": ("copy_", "_to_copy", "cat", "clone", "contiguous"),
    "scaling and adding": ("aten::mul", "aten::add", "aten::div", "aten::sum", "lerp"),
}
REST = "all else"


def kind_of(operator: str) -> str:
    """The kind of work of an operator, such as `aten::addmm`."""
    name = operator.lower()
    return next((kind for kind, parts in KINDS.items() if any(p in name for p in parts)), REST)


def seconds_by_kind(work: Work) -> dict[str, float]:
    """Seconds of a step by kind of work: the operators' own time, of threads one after another."""
    found = dict.fromkeys((*KINDS, REST), 0.0)
    recorder = profile()

    def recorded(steps: int, tick: Callable[[], None]) -> int:
        done = 0

        def after_step() -> None:
            nonlocal done
            done += 1
            if done == WARMUP + STEPS:
                recorder.stop()
            tick()
            if done == WARMUP:
                recorder.start()

        return work(steps, after_step)

    pace = Pace(recorded, 1000)
    for _ in range(WARMUP + STEPS):
        pace.advance()
    pace.leave()
    for event in recorder.events():  # key_averages takes minutes
        found[kind_of(event.name)] += event.self_cpu_time_total / 1e6 / STEPS
    return found


def measure(
    name: str, _repeats: int, keep: Callable[[str, dict], None], variants: list[str]
) -> None:
    """Profiles the variants of a model one after the other."""
    model, data = build(name), pictures(name)
    comfy.model_management.in_training = True
    for variant in variants:
        try:
            row = {
                "kinds": seconds_by_kind(
                    VARIANTS[variant](Job(twin(model), *data, SPECS[name].targets))
                )
            }
        except Exception as error:
            row = {"error": sentence(error)}
        keep(variant, row)
        gc.collect()
    comfy.model_management.in_training = False
