"""What training costs on a real card, in the real host: `python -m tests.gpu.run_all [FOLDER]`.

Seconds of a step against the limit (the frozen model's forward and backward pass, gradients to
activations) and the peak memory against the one that was planned, on models of real size with
random weights; what a step computes against the same step on the CPU, on a small model. Prints
tables, and writes gpu.json to the folder. Without a card it says so in one sentence.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path

import torch

from tests.hosting.inprocess import REPOSITORY
from tests.null_gpu.table import markdown
from tests.null_gpu.work import Case

NO_CARD = "There is no NVIDIA card here: `nox -s null-gpu` counts what a run does without one."
MARK = "result: "
SDXL = Case(gigabytes=0.0, steps=12)
CASES = {
    "SDXL fp16, 512 px, fixed 64": SDXL,
    "SDXL fp16, 512 px, default": replace(SDXL, mode="adaptive"),
    "SDXL fp16, 1024 px, fixed 64": replace(SDXL, pixels=1024),
    "SDXL fp16, 1024 px, fixed 64, checkpointing": replace(SDXL, pixels=1024, checkpointing="on"),
    "SDXL fp16, 512 px, fixed 64, torch_compile": replace(SDXL, compiled=True),
    "SDXL fp16, 1024 px, fixed 64, torch_compile": replace(SDXL, pixels=1024, compiled=True),
    "SDXL fp16, 1024 px, default": replace(
        SDXL, pixels=1024, mode="adaptive", checkpointing="auto"
    ),
    "Flux fp8, 1024 px, fixed 64": replace(
        SDXL, model="flux", dtype="fp8", pixels=1024, checkpointing="auto"
    ),
    "Flux bf16, 1024 px, fixed 64": replace(
        SDXL, model="flux", dtype="bf16", pixels=1024, checkpointing="auto"
    ),
    "Flux bf16, 1024 px, fixed 64, torch_compile": replace(
        SDXL, model="flux", dtype="bf16", pixels=1024, checkpointing="auto", compiled=True
    ),
}


def row_of(case: Case) -> dict:
    """Returns what a process of its own measures of a case."""
    command = [sys.executable, "-m", "tests.gpu.measure", case.text]
    done = subprocess.run(command, cwd=REPOSITORY, env=os.environ, capture_output=True, text=True)
    for line in done.stdout.splitlines():
        if line.startswith(MARK):
            return json.loads(line.removeprefix(MARK))
    return {"error": (done.stderr.strip().splitlines() or [f"code {done.returncode}"])[-1]}


def limit_of(case: Case) -> Case:
    """Returns what a case is compared with."""
    return replace(case, mode="limit", checkpointing="off", start=0, compiled=False)


def line(name: str, row: dict, limit: dict) -> list[str]:
    """Returns a row of the table."""
    if "seconds" not in row:
        return [name, row.get("error", "no step"), "", "", ""]
    over = f"{row['seconds'] / limit['seconds']:.2f}" if "seconds" in limit else "–"
    planned = f"{row['planned']:.2f}" if row.get("planned") else "–"
    return [name, f"{row['seconds']:.3f}", over, f"{row['peak']:.2f}", planned]


def main(arguments: Sequence[str]) -> dict:
    if not torch.cuda.is_available():
        print(NO_CARD)
        return {}
    rows = {name: row_of(case) for name, case in CASES.items()}
    limits: dict[Case, dict] = {}
    head = ["run", "s/step", "over the limit", "peak, GB", "planned, GB"]
    lines = [head]
    for name, case in CASES.items():
        wanted = limit_of(case)
        if wanted not in limits:
            limits[wanted] = row_of(wanted)
        lines.append(line(name, rows[name], limits[wanted]))
    alike = row_of(replace(SDXL, model="small", mode="alike"))
    results = {
        "machine": f"{torch.cuda.get_device_name()}, torch {torch.__version__}",
        "rows": {name: row | asdict(CASES[name]) for name, row in rows.items()},
        "limits": {f"{c.model} {c.dtype} {c.pixels}": row for c, row in limits.items()},
        "against the CPU": alike,
    }
    print(results["machine"], "", markdown(lines), "", f"against the CPU: {alike}", sep="\n")
    if arguments:
        folder = Path(arguments[0])
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "gpu.json").write_text(json.dumps(results, indent=1) + "\n")
    return results


if __name__ == "__main__":
    main(sys.argv[1:])
