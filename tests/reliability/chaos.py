"""`nox -s chaos` prints figures 6 to 10, 12 and 13; `-- SEED` for others than seed 0."""

from __future__ import annotations

import logging
import sys
import tempfile
from pathlib import Path

import safetensors
import torch

from tests.reliability.disk import figure_7
from tests.reliability.endings import figure_8, figure_9, figure_10, figure_12, figure_13
from tests.reliability.figures import keep, told
from tests.reliability.kills import figure_6
from tests.reliability.trainings import Trainings

FULL = 200  # kills; fewer are printed but not kept


def main(what: str, count: int = FULL, seed: int = 0) -> None:
    """what: `kills` alone, which depends on the version of safetensors, or `all`."""
    torch.set_num_threads(1)  # a process with more can't be forked while it computes
    logging.getLogger("lora2").setLevel(logging.CRITICAL)  # the faults are ours
    trainings = Trainings()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "kills").mkdir()
        if what == "all":
            (folder / "disk").mkdir()
            measure = (
                lambda: figure_13(trainings), lambda: figure_9(trainings, 5),
                lambda: figure_12(trainings, 20, seed), lambda: figure_8(trainings, 20, seed),
                lambda: figure_7(trainings, folder / "disk", seed),
                lambda: figure_10(trainings, 20),
            )  # fmt: skip
            keep("chaos", (figure() for figure in measure))
        kills = figure_6(trainings, folder / "kills", count, seed)
        if count < FULL:
            print(told(kills))
            return
        keep("chaos", [kills], f"-{safetensors.__version__}")


if __name__ == "__main__":
    main(sys.argv[1], *map(int, sys.argv[2:]))
