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

CLOSE = 2e-2  # relative difference of the adapters of a card and the CPU, in fp32


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


def alike() -> dict:
    """Returns how far three steps on the card end from three steps on the CPU, as a share of the
    update, on a small model of the host's.
    """
    import comfy.model_management

    from lora2_core import RankSettings, TrainSettings
    from lora2_core.host.training.choices import Choices
    from lora2_core.host.training.run import train_on
    from tests.host.flow_models import build, pictures

    choices = Choices(RankSettings(mode="fixed", target_rank=4), TrainSettings(3, 1e-3))
    loras = []
    for device in ("cpu", "cuda"):
        comfy.model_management.get_torch_device = lambda device=device: torch.device(device)
        with torch.inference_mode():
            loras.append(
                train_on(build("Flux"), *pictures("Flux"), choices, lambda step: None).lora
            )
    apart = [
        float((a.delta() - loras[1].layers[name].delta()).norm() / a.delta().norm())
        for name, a in loras[0].layers.items()
    ]
    return {"worst layer": max(apart), "close": max(apart) < CLOSE}


def main() -> None:
    from tests.hosting.inprocess import enter

    enter(Path(os.environ["LORA2_HOST"]))
    case = Case(**json.loads(sys.argv[1]))
    try:
        row = alike() if case.mode == "alike" else measure(case)
    except Exception as error:  # too little memory is a result too
        row = {"error": " ".join(f"{type(error).__name__}: {error}".split())[:300]}
    print(MARK + json.dumps(row), flush=True)


if __name__ == "__main__":
    main()
