"""`nox -s parallel`: two processes that train one adapter of the playground together, against one
process at the same batch size.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors.torch import load_file

from tests.hosting.process import free_port
from tests.hosting.server import REPOSITORY
from tests.parallel.trained import train

PROGRAM = ("-m", "tests.hosting.inprocess", "tests.parallel.trained")
WITHIN = 1e-5  # of losses; in the first steps Adam makes much of rounding where gradients are tiny
WEIGHTS_WITHIN = 1e-4
LONGEST = 600  # seconds that the two may take longer than the one


@dataclass(frozen=True)
class Compared:
    """One process against two: the largest relative difference of a step's loss; the norm of the
    difference of the updates over that of the update; whether all ranks of every step agree,
    between one and two processes and among the two; and whether the two hold the same bytes.
    """

    losses: float
    weights: float
    same_ranks: bool
    same_processes: bool

    @property
    def holds(self) -> bool:
        near = self.losses < WITHIN and self.weights < WEIGHTS_WITHIN
        return near and self.same_ranks and self.same_processes

    def __str__(self) -> str:
        return (
            f"losses differ by at most {self.losses:.1e}, the update by {self.weights:.1e}; ranks "
            f"of every step {'agree' if self.same_ranks else 'DIFFER'}; the two processes hold "
            f"{'the same adapter to the last bit' if self.same_processes else 'OTHER adapters'}"
        )


def compare(mode: str, steps: int, batch: int = 4) -> Compared:
    """Trains in this process and in two others."""
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        command = [sys.executable, *PROGRAM, str(folder), mode, str(steps), str(batch)]
        meeting = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port()), "WORLD_SIZE": "2"}
        shared = os.environ | meeting | {"OMP_NUM_THREADS": "1", "LORA2_DEVICE": "cpu"}
        two = [
            subprocess.Popen(command, cwd=REPOSITORY, env=shared | {"RANK": rank}) for rank in "01"
        ]
        try:
            train(folder, mode, steps, batch)
            if any(process.wait(LONGEST) for process in two):
                raise RuntimeError("A process failed: see above.")
        finally:
            for process in two:
                process.kill()
        facts = {n: json.loads((folder / f"{n}.json").read_text()) for n in ("alone", "0", "1")}
        weights = {n: load_file(folder / f"{n}.safetensors") for n in facts}
    alone, first = facts["alone"], facts["0"]
    pairs = zip(alone["losses"], first["losses"], strict=True)
    return Compared(
        max(abs(a - b) / a for a, b in pairs),
        apart(weights["alone"], weights["0"]),
        all(f["ranks"] == alone["ranks"] for f in facts.values()),
        first == facts["1"] and all((weights["1"][k] == v).all() for k, v in weights["0"].items()),
    )


def apart(one: dict, other: dict) -> float:
    """The norm of the difference of the updates B A over the norm of the update, of all layers
    together; infinite where layers or ranks differ.
    """
    if {k: v.shape for k, v in one.items()} != {k: v.shape for k, v in other.items()}:
        return float("inf")
    difference = whole = 0.0
    for key in (k for k in one if k.endswith("lora_up.weight")):
        down = key.replace("lora_up", "lora_down")
        update, its = (w[key].double() @ w[down].double() for w in (one, other))
        difference += float((update - its).square().sum())
        whole += float(update.square().sum())
    return (difference / whole) ** 0.5


def main() -> None:
    parser = argparse.ArgumentParser(prog="nox -s parallel --")
    parser.add_argument("--steps", type=int, default=60)
    failed = False
    torch.set_num_threads(1)
    for mode in ("fixed", "paper", "adaptive"):
        steps = parser.parse_args().steps
        found = compare(mode, steps)
        print(f"{mode}, {steps} steps: {found}", flush=True)
        failed |= not found.holds
    sys.exit("Not the same." if failed else 0)


if __name__ == "__main__":
    main()
