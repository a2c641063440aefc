"""Optimizers on planted ranks: `python -m tests.benchmarks.optimizers` prints one table.

Three layers lack updates of rank 6, 1 and 3; the mean rank may be 4. The loss is that of new draws,
at the best of three learning rates. Packages that are not installed are left out.
"""

from __future__ import annotations

import sys

import torch

import lora2_core as lora2
from lora2_core.training.run import Run
from tests.toys import Planted

PLANTED, STEPS, DRAWS = [6, 1, 3], 200, 20
RATES = {  # the middle one; a third and three times of it are tried too
    "adamw": 1e-2, "prodigy": 1.0, "torch.optim.RAdam": 2e-2, "torch.optim.NAdam": 1e-2,
    "torch.optim.RMSprop": 3e-3, "torch.optim.Adagrad": 1e-1, "torch.optim.SGD": 1.0,
    "torch.optim.Adamax": 1e-2, "torch.optim.Adafactor": 0.3, "pytorch_optimizer.Lion": 3e-3,
    "pytorch_optimizer.Adan": 1e-2, "schedulefree.AdamWScheduleFree": 2e-2,
    "bitsandbytes.optim.AdamW8bit": 1e-2,
}  # fmt: skip


def trained(name: str, mode: str, rate: float) -> tuple[float, list[int]]:
    """Loss on new draws, and the ranks."""
    model = Planted(PLANTED, width=24, noise=0.1)
    adapters = lora2.attach(model, "l", lora2.RankSettings(mode=mode, target_rank=4, max_rank=24))
    schedule = "constant" if name.startswith("schedulefree") else "late"
    settings = lora2.TrainSettings(STEPS, rate, optimizer=name, schedule=schedule)
    run = Run(adapters, settings)
    for _ in run.steps(model.loss):
        pass
    run.optimizer.take_means()
    adapters.refresh()
    generator = torch.Generator().manual_seed(99)
    with torch.no_grad():
        loss = sum(float(model.loss(generator)) for _ in range(DRAWS)) / DRAWS
    return loss, list(adapters.ranks.values())


def cells(name: str, middle: float) -> list[str]:
    """What the table says of an optimizer."""
    found = []
    for mode in ("fixed", "adaptive"):
        try:
            runs = [(*trained(name, mode, middle * by), middle * by) for by in (1 / 3, 1, 3)]
        except ValueError as error:
            found.append("not installed" if "not installed" in str(error) else "refused")
            continue
        loss, ranks, rate = min(runs)
        found.append(f"{loss:.3f} at {rate:.2g}" + (f", {ranks}" if mode == "adaptive" else ""))
    return found


if __name__ == "__main__":
    sys.stdout.write("| | fixed | adaptive, ranks |\n|---|---|---|\n")
    for each, rate in RATES.items():
        sys.stdout.write(f"| {each} | {' | '.join(cells(each, rate))} |\n")
        sys.stdout.flush()
