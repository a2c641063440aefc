"""Measures one case on a real card, and prints what it found as JSON; `run_all` starts it."""

from __future__ import annotations

import json
import os
import sys
import time
from contextlib import closing
from pathlib import Path
from statistics import median

import torch

from tests.gpu.run_all import MARK
from tests.null_gpu.work import WARM, Case, limit, steps


def measure(case: Case) -> dict:
    """Returns the median seconds of a step, the peak of all memory in GB, and the planned one."""
    from tests.benchmarks.speed.models import fill
    from tests.null_gpu import models

    model, data = models.build(case.model, case.dtype), models.pictures(case.model, case.pixels)
    if case.dtype != "fp8":  # whose values can't be drawn; zeros cost as much
        fill(model.model.diffusion_model)
    row: dict = {}
    seconds = []
    made = limit(case, model, data) if case.mode == "limit" else steps(case, model, data, row)
    with closing(made):
        for _ in range(case.steps):
            torch.cuda.synchronize()
            began = time.perf_counter()
            next(made)
            torch.cuda.synchronize()
            seconds.append(time.perf_counter() - began)
    need = row.get("need")
    return {
        "seconds": median(seconds[WARM:]),
        "peak": torch.cuda.max_memory_allocated() / 1e9,
        "planned": need and (need["weights"] + need["adapter"] + need["step"]) / 1e9,
        "plan": row.get("plan"),
        "checkpointed": row.get("checkpointed"),
        "notes": row.get("notes", []),
    }


def main() -> None:
    from tests.hosting.inprocess import enter

    enter(Path(os.environ["LORA2_HOST"]))
    case = Case(**json.loads(sys.argv[1]))
    try:
        row = measure(case)
    except Exception as error:  # too little memory is a result too
        row = {"error": " ".join(f"{type(error).__name__}: {error}".split())[:300]}
    print(MARK + json.dumps(row), flush=True)


if __name__ == "__main__":
    main()
