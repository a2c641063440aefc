"""One measurement in a process of its own: `probe TASK ARGUMENTS…` prints its result as JSON.

`alone(…)` starts it; what a process leaves behind in memory then spoils no other measurement.
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import torch

from tests.benchmarks.speed.pace import Finished, Pace
from tests.hosting.inprocess import REPOSITORY

MODULE = "tests.benchmarks.speed.probe"
STEPS = 3
MARK = "result: "


def train(name: str, variant: str, _repeats: str) -> dict:
    """Peak memory, adapter parameters and setup seconds of one whole short run."""
    from tests.benchmarks.speed.models import SPECS, build, frozen_bytes, pictures
    from tests.benchmarks.speed.peak import Peak
    from tests.benchmarks.speed.variants import VARIANTS, Job
    from tests.benchmarks.speed.wide import with_fast_products

    model, data = build(name), pictures(name)
    frozen = frozen_bytes(model)
    work = VARIANTS[variant](Job(model, *data, SPECS[name].targets))
    pace = Pace(with_fast_products(work, SPECS[name].dtype), STEPS)
    forwards: list[float] = []
    # a second copy of the model has this hook as well
    model.model.diffusion_model.register_forward_pre_hook(
        lambda *_: forwards.append(time.perf_counter()) if torch.is_grad_enabled() else None
    )
    peak, begun = Peak(), time.perf_counter()
    for _ in range(STEPS):
        pace.advance()
    training = peak.above()
    pace.advance()
    return {
        "peak": peak.above(),
        "training": training,
        "frozen": frozen,
        "parameters": pace.parameters,
        "setup": forwards[0] - begun,
        "seconds": pace.seconds,
    }


def setup(name: str, variant: str, repeats: str) -> dict:
    """Seconds from the start of the node to the first step's forward pass, where it is left."""
    from tests.benchmarks.speed.models import SPECS, build, pictures
    from tests.benchmarks.speed.variants import VARIANTS, Job

    model, data = build(name), pictures(name)
    forwards: list[float] = []

    def leave(*_: object) -> None:
        if torch.is_grad_enabled():  # not in a trial before the first step
            forwards.append(time.perf_counter())
            raise Finished

    model.model.diffusion_model.register_forward_pre_hook(leave)
    seconds = []
    for _ in range(int(repeats)):
        work, begun = VARIANTS[variant](Job(model, *data, SPECS[name].targets)), time.perf_counter()
        with suppress(Finished):
            work(STEPS, lambda: None)
        seconds.append(forwards[-1] - begun)
    return {"seconds": seconds}


def pace(name: str, variant: str, steps: str) -> dict:
    """One step for every line of input; tells all seconds and reviews after each."""
    import comfy.model_management

    from tests.benchmarks.speed.models import SPECS, build, pictures
    from tests.benchmarks.speed.pace import watch_reviews
    from tests.benchmarks.speed.variants import VARIANTS, Job

    watch_reviews()
    comfy.model_management.in_training = True
    job = Job(build(name), *pictures(name), SPECS[name].targets)
    trainer = Pace(VARIANTS[variant](job), int(steps))
    for _ in sys.stdin:
        trainer.advance()
        tell({"seconds": trainer.seconds, "reviews": trainer.reviews})
    trainer.leave()
    return {}


def load(name: str, way: str, path: str) -> dict:
    """Seconds from a LoRA file to the first patched forward pass, and the peak memory."""
    from tests.benchmarks.speed import loading

    return loading.first_forward(name, way, Path(path))


def travel(way: str, steps: str) -> dict:
    """Seconds from the start of a training node to its saved file."""
    from tests.benchmarks.speed import journey

    return journey.travel(way, int(steps))


TASKS: dict[str, Callable[..., dict]] = {
    "train": train, "setup": setup, "pace": pace, "load": load, "travel": travel,
}  # fmt: skip


def command(*arguments: str) -> list[str]:
    """That runs a task in a fresh interpreter."""
    return [sys.executable, "-m", "tests.hosting.inprocess", MODULE, *arguments]


def tell(result: dict) -> None:
    print(MARK + json.dumps(result), flush=True)


def alone(*arguments: str) -> dict:
    """The result of a task in a fresh interpreter, or what it died of as `error`."""
    done = subprocess.run(command(*arguments), cwd=REPOSITORY, capture_output=True, text=True)
    for line in reversed(done.stdout.splitlines()):
        if line.startswith(MARK):
            return json.loads(line.removeprefix(MARK))
    last = (done.stderr.strip().splitlines() or ["no output"])[-1]
    return {"error": last[:160] if done.returncode > 0 else f"ended by signal {-done.returncode}"}


def each(task: str) -> Callable[[str, int, Callable[[str, dict], None], list[str]], None]:
    """Does a task with the variants of a model, each in a process of its own."""

    def measure(
        name: str, repeats: int, keep: Callable[[str, dict], None], variants: list[str]
    ) -> None:
        for variant in variants:
            keep(variant, alone(task, name, variant, str(repeats)))

    return measure


def main() -> None:
    from tests.benchmarks.speed.timing import sentence

    try:
        result = TASKS[sys.argv[1]](*sys.argv[2:])
    except Exception as error:
        result = {"error": sentence(error)}
    tell(result)


if __name__ == "__main__":
    main()
