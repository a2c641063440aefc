"""The whole way on the playground: from the start of the node to the saved file."""

from __future__ import annotations

import tempfile
import time
from pathlib import Path

from tests.benchmarks.speed.probe import alone
from tests.benchmarks.speed.store import Store

STEPS = 100
WAYS = ("ours", "built-in")


def travel(way: str, steps: int) -> dict:
    """Seconds of one journey at rank 64, all else as the nodes have it, in this process."""
    from tests.benchmarks.speed.models import SPECS, build, pictures
    from tests.benchmarks.speed.variants import Job, node_call

    model, data = build("playground"), pictures("playground", 6)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "adapter.safetensors"
        if way == "ours":
            from lora2_core import RankSettings, TrainSettings, save
            from lora2_core.host.training.choices import Choices
            from lora2_core.host.training.run import train_on

            begun = time.perf_counter()
            run = Choices(RankSettings(target_rank=64), TrainSettings(steps))
            lora = train_on(model, *data, run, lambda step: None).lora
            trained = time.perf_counter()
            save(path, lora, diffusers=lora.origin.base.diffusers)
        else:
            import safetensors.torch

            job = Job(model, *data, SPECS["playground"].targets)
            begun = time.perf_counter()
            found = node_call(job, steps)
            trained = time.perf_counter()
            safetensors.torch.save_file(found.args[0], path)  # all that its save node does
        end = time.perf_counter()
    return {"seconds": end - begun, "saving": end - trained}


def run(store: Store, repeats: int, *, quick: bool) -> None:
    """Both ways in turn, each journey in a fresh process."""
    if set(WAYS) <= set(store.rows("journey", "playground")):
        return
    print("journey: playground", flush=True)
    steps, found = 6 if quick else STEPS, {way: [] for way in WAYS}
    for _ in range(max(1, repeats // 5)):
        for way in WAYS:
            found[way].append(alone("travel", way, str(steps)))
    for way, rows in found.items():
        errors = [row["error"] for row in rows if "error" in row]
        row = {"error": errors[0]} if errors else {"seconds": [r["seconds"] for r in rows]}
        store.keep("journey", "playground", way, row | {"steps": steps})
