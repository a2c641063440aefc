"""`nox -s bench-options`: one measured line for each training option.

Each way to train is compared with the same mode without it, paired by subject and seed. An arm with
several learning rates gets the one with the least loss on the tuning subjects, and so does the
plain arm; regularisers have the learning rate of that. Results are kept in a file, so that a second
start goes on.
"""

from __future__ import annotations

import argparse
import math
import sys
import time

import torch

from tests.benchmarks.options.arms import ARMS, SEEDS
from tests.benchmarks.options.rows import PAGE, Rows, report, written


def work_off(chosen: argparse.Namespace) -> None:
    """Does the runs that are missing."""
    from tests.benchmarks.options.trial import Bench

    torch.set_num_threads(1)
    rows, bench, begun = Rows(), Bench(), time.monotonic()
    part = tuple(map(int, chosen.part.split("/")))
    arms = [arm for arm in ARMS.values() if chosen.arms in arm.key or arm.key == arm.plain]
    while runs := rows.missing(arms, chosen.seeds, part):
        for run in runs:
            if time.monotonic() - begun > chosen.seconds:
                return
            rows.add(run, bench.measured(run))
            print(run, rows.of[run], flush=True)
        rows = Rows()  # others may have added some


def main() -> None:
    options = argparse.ArgumentParser(prog="nox -s bench-options --")
    options.add_argument("--report", action="store_true", help="print the tables, train nothing")
    options.add_argument("--page", action="store_true", help="and write them in docs/options.md")
    options.add_argument("--part", default="1/1", help="I/N: the I-th of N processes")
    options.add_argument("--arms", default="", help="only those whose name has this")
    options.add_argument(
        "--seeds",
        type=int,
        choices=range(1, len(SEEDS) + 1),
        default=1,
        help="of each test subject",
    )
    options.add_argument("--seconds", type=float, default=math.inf, help="begin no run after these")
    chosen = options.parse_args()
    if not chosen.report:
        with torch.inference_mode():
            work_off(chosen)
    rows = Rows()
    sys.stdout.write(report(rows) + "\n")
    if chosen.page:
        PAGE.write_text(written(PAGE.read_text(), rows))


if __name__ == "__main__":
    main()
