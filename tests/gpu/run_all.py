"""What training costs on a real card, and whether it is right there, in the real host:
`python -m tests.gpu.run_all [FOLDER] [--only steps alike servers quantised]`.

steps: seconds against the limit (the frozen model's forward and backward pass, gradients to
activations) and the peak memory against the one that was planned, on models of real size with
random weights (a quarter of an hour). alike: a few steps of small models against the CPU
(alike.py). servers: the real server, started in the ways that people start it (servers.py).
quantised: gradients on quantised models against a dequantised copy. Each part prints its table,
and writes gpu.json to the folder. Without a card it says so in one sentence.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from pathlib import Path

import torch

from tests.gpu import alike, servers
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


def result(module: str, *arguments: str) -> dict:
    """Returns what a process of its own measures."""
    command = [sys.executable, "-m", module, *arguments]
    done = subprocess.run(command, cwd=REPOSITORY, env=os.environ, capture_output=True, text=True)
    for line in done.stdout.splitlines():
        if line.startswith(MARK):
            return json.loads(line.removeprefix(MARK))
    return {"error": (done.stderr.strip().splitlines() or [f"code {done.returncode}"])[-1]}


def row_of(case: Case) -> dict:
    """Returns what a case costs."""
    return result("tests.gpu.measure", case.text)


def limit_of(case: Case) -> Case:
    """Returns what a case is compared with."""
    return replace(case, mode="limit", checkpointing="off", start=0, compiled=False)


def line(name: str, row: dict, limit: dict) -> list[str]:
    """Returns a row of the table of steps."""
    if "seconds" not in row:
        return [name, row.get("error", "no step"), "", "", ""]
    over = f"{row['seconds'] / limit['seconds']:.2f}" if "seconds" in limit else "–"
    planned = f"{row['planned']:.2f}" if row.get("planned") else "–"
    return [name, f"{row['seconds']:.3f}", over, f"{row['peak']:.2f}", planned]


def steps() -> dict:
    """Measures what steps cost."""
    rows = {name: row_of(case) for name, case in CASES.items()}
    limits: dict[Case, dict] = {}
    lines = [["run", "s/step", "over the limit", "peak, GB", "planned, GB"]]
    for name, case in CASES.items():
        wanted = limit_of(case)
        if wanted not in limits:
            limits[wanted] = row_of(wanted)
        lines.append(line(name, rows[name], limits[wanted]))
    print(markdown(lines))
    return {
        "rows": {name: row | asdict(CASES[name]) for name, row in rows.items()},
        "limits": {f"{c.model} {c.dtype} {c.pixels}": row for c, row in limits.items()},
    }


def differences(rows: dict[str, dict]) -> dict:
    """Prints how far adapters are from those of a CPU."""
    lines = [["against the CPU", "worst layer", "layers without an update", "close"]]
    for name, row in rows.items():
        if "error" in row:
            lines.append([name, row["error"], "", ""])
            continue
        close = "yes" if row["close"] else "no"
        lines.append([name, f"{row['worst layer']:.2g}", str(row["idle"]), close])
    print(markdown(lines))
    return rows


def quantised() -> dict:
    """Prints how exact gradients on quantised models are."""
    command = [sys.executable, "-m", "tests.hosting.inprocess", "tests.benchmarks.quantised"]
    done = subprocess.run(command, cwd=REPOSITORY, env=os.environ, capture_output=True, text=True)
    text = done.stdout if done.returncode == 0 else done.stderr[-2000:]
    print(text)
    return {"text": text}


PARTS: dict[str, Callable[[], dict]] = {
    "steps": steps,
    "alike": lambda: differences(
        {name: result("tests.gpu.alike", check.text) for name, check in alike.CHECKS.items()}
    ),
    "servers": lambda: differences(servers.rows()),
    "quantised": quantised,
}


def main(arguments: Sequence[str]) -> dict:
    """Runs the parts that are wanted. Returns what they found, also of earlier runs."""
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("folder", type=Path, nargs="?", help="where gpu.json is kept")
    options.add_argument("--only", nargs="+", choices=PARTS, default=list(PARTS))
    wanted = options.parse_args(arguments)
    if not torch.cuda.is_available():
        print(NO_CARD)
        return {}
    file = wanted.folder / "gpu.json" if wanted.folder else None
    results = json.loads(file.read_text()) if file and file.exists() else {}
    results["machine"] = f"{torch.cuda.get_device_name()}, torch {torch.__version__}"
    print(results["machine"])
    for part in wanted.only:
        print(f"\n{part}\n", flush=True)
        results[part] = PARTS[part]()
        if file:
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(json.dumps(results, indent=1) + "\n")
    return results


if __name__ == "__main__":
    main(sys.argv[1:])
