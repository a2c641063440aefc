"""Worker processes, each handed the next run when it is free."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterable
from pathlib import Path

from tests.benchmarks.ranks.runs import Ledger, Run
from tests.hosting.inprocess import REPOSITORY

WORKER = ("-m", "tests.hosting.inprocess", "tests.benchmarks.ranks.worker")


def start_worker(playground: Path) -> subprocess.Popen:
    return subprocess.Popen(
        [sys.executable, *WORKER, str(playground)],
        cwd=REPOSITORY,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )


def ask(worker: subprocess.Popen, run: Run) -> str:
    """The worker's answer to a run, empty when it has ended."""
    try:
        worker.stdin.write(run.to_json() + "\n")
        worker.stdin.flush()
    except BrokenPipeError:
        return ""
    return worker.stdout.readline()


def work_off(runs: Iterable[Run], ledger: Ledger, playground: Path, workers: int) -> None:
    """Does the runs that the ledger lacks, in their order, and prints a line for each.

    RuntimeError when a worker ends early, or when its results are of other sources than those that
    this process began with; what was done is in the ledger.
    """
    missing = [run for run in dict.fromkeys(runs) if not ledger.done(run)]
    if not missing:
        return
    queue, lock, total, start = iter(missing), threading.Lock(), len(missing), time.perf_counter()
    finished: list[Run] = []
    failed: list[str] = []

    def serve() -> None:
        with start_worker(playground) as worker:
            while not failed:
                with lock:
                    run = next(queue, None)
                if run is None:
                    break
                if not (answer := ask(worker, run)):
                    failed.append(f"A worker ended early at {run}: its last lines are above.")
                    break
                rows = json.loads(answer)
                with lock:
                    ledger.add(rows)
                    if not ledger.done(run):
                        failed.append("lora2_core has changed meanwhile: start again to go on.")
                        break
                    finished.append(run)
                    spent = time.perf_counter() - start
                    left = spent / len(finished) * (total - len(finished))
                    print(f"{len(finished):4}/{total} {left / 60:4.0f} min left  {name(run, rows)}")
                    sys.stdout.flush()
            with contextlib.suppress(BrokenPipeError):
                worker.stdin.close()

    threads = [threading.Thread(target=serve) for _ in range(min(workers, total))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if failed:
        raise RuntimeError(failed[0])


def name(run: Run, rows: list[dict]) -> str:
    loss = f"{rows[0]['background']:.4f}" if "background" in rows[0] else "-"
    rank = "" if run.method == "base" else f" {run.rank:g} x {run.share:g} at {run.rate:g}"
    of = f"{run.base} {run.pictures:12} seed {run.seed} {run.method}{rank}, {run.layers}"
    return f"{of}: {loss} {rows[0]['seconds']:.0f} s"
