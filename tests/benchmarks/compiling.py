"""What torch.compile of the blocks brings: seconds of a step with and without, on this machine.
`nox -s bench-compile`; `-- MODEL…` for some of the models. On a CPU they are seconds of one core,
which other programs hardly change.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence
from itertools import pairwise
from statistics import median

import torch

from lora2_core import RankSettings, TrainSettings
from lora2_core.host.training.choices import Choices
from lora2_core.host.training.run import train_on
from lora2_core.layers.targets import TargetSettings
from tests.benchmarks.speed.models import SPECS, build, pictures
from tests.null_gpu.table import markdown

STEPS = 12  # of a run
LATER = 2  # the step from which on they count: all is compiled by then, and caches are warm
TURNS = 3  # runs of either kind, in turn
clock = time.perf_counter if torch.cuda.is_available() else time.process_time
MODELS = ("playground", "small", "flux")


def run_of(model, data, layers: str, *, compiled: bool) -> tuple[list[float], list[str]]:
    """Returns the seconds of each step of a run, of the first by the clock with all that comes
    before it, and what was said on the way.
    """
    times, said = [clock()], []
    begun, first = time.perf_counter(), []

    def on_step(_step) -> None:
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        times.append(clock())
        first.append(time.perf_counter() - begun)

    choices = Choices(
        RankSettings(mode="fixed", target_rank=64),
        TrainSettings(steps=STEPS, learning_rate=1e-5),
        target=TargetSettings(layers=layers),
        checkpointing="off",
        torch_compile=compiled,
    )
    outcome = train_on(model, *data, choices, on_step, on_note=said.append)
    if outcome.stopped_by is not None:
        raise outcome.stopped_by
    return [first[0], *(later - earlier for earlier, later in pairwise(times[1:]))], said


def row_of(name: str, layers: str) -> list[str]:
    """Returns what runs on a model take, without and with."""
    model, data = build(name), pictures(name)
    seconds: dict[bool, list[float]] = {False: [], True: []}
    firsts, notes = [], []
    for _ in range(TURNS):
        for compiled in (False, True):
            steps, said = run_of(model, data, layers, compiled=compiled)
            seconds[compiled] += steps[LATER:]
            notes += said
            if compiled:
                firsts.append(steps[0])
    if notes:
        raise RuntimeError(str(notes))
    without, within = median(seconds[False]), median(seconds[True])
    figures = f"{without:.3f}", f"{within:.3f}", f"{within / without:.2f}", f"{firsts[0]:.0f}"
    return [f"{SPECS[name].title}, {layers}", *figures]


def main(names: Sequence[str]) -> None:
    rows = [["fixed 64", "s/step without", "s/step with", "with / without", "first step, s"]]
    with torch.inference_mode():
        for name in names or MODELS:
            for layers in ("attention", "all in blocks"):
                rows.append(row_of(name, layers))
                print(rows[-1], file=sys.stderr, flush=True)
    print(markdown(rows))


if __name__ == "__main__":
    main(sys.argv[1:])
