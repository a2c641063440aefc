"""The command line of jobs: `python -m lora2_core.protocol train FILE`."""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from pathlib import Path

from .headless import enter, find_comfyui
from .job import Job

COLUMNS = {"megabytes": "MB", "mean_rank": "mean rank", "loss": "loss", "steps": "steps",
           "seconds": "seconds"}  # fmt: skip


def parse(arguments: list[str]) -> argparse.Namespace:
    """Returns the options of the command line."""
    parser = argparse.ArgumentParser(
        prog="python -m lora2_core.protocol train",
        description="Trains, draws with and saves an adapter for each folder of pictures, one "
        "after another. A second start goes on where the first one ended.",
    )
    add = parser.add_argument
    add("file", help="a JSON or TOML file: see docs/protocol.md")
    add("--out", type=Path, help="where adapters and pictures go; beside the file without")
    add("--comfyui", help="ComfyUI's folder; found by itself when the pack is installed there")
    add("--base-directory", type=Path, help="models; ComfyUI's own without")
    return parser.parse_args(arguments)


def run(arguments: list[str]) -> str:
    """Does what is missing of a job, and returns a table of its adapters in Markdown."""
    options = parse(arguments)
    job, file = Job.read(options.file), Path(options.file).resolve()
    subjects = job.subjects(file.parent)
    out = (options.out or file.with_suffix("")).resolve()
    enter(find_comfyui(options.comfyui), options.base_directory)
    from .trainer import work_off

    return table(work_off(job, subjects, out)) + f"\n\nThe adapters are in {out}."


def table(done: Mapping[str, Mapping]) -> str:
    """Returns the table of adapters in Markdown."""
    lines = [f"| adapter | {' | '.join(COLUMNS.values())} |", "|---" + "|--:" * len(COLUMNS) + "|"]
    for name, facts in done.items():
        cells = [f"{facts[key]:.4g}" for key in COLUMNS]
        lines.append(f"| {name} | {' | '.join(cells)} |")
    return "\n".join(lines)
