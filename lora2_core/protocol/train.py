"""The command line of jobs, `python -m lora2_core.protocol train FILE`: here, or on Ray."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from .headless import enter, find_comfyui
from .job import Job, Subject
from .on_ray import Cluster

COLUMNS = {"megabytes": "MB", "mean_rank": "mean rank", "loss": "loss", "steps": "steps",
           "seconds": "seconds"}  # fmt: skip


@dataclass(frozen=True)
class Setup:
    """Holds everything that a worker on Ray needs: the job, the folder of the adapters, and those
    of ComfyUI and (base) of its models.
    """

    job: Job
    out: Path
    comfyui: Path
    base: Path | None = None

    def workshop(self) -> Callable[[Subject], dict]:
        """Enters ComfyUI, loads the models, and returns the function that trains on a folder;
        called once in a process.
        """
        enter(self.comfyui, self.base)
        from .trainer import Trainer

        trainer = Trainer(self.job, self.out)
        return lambda subject: trainer.train(subject, self.job.fingerprint(subject))

    def on(self, cluster: Cluster) -> Callable:
        """Returns what trains the missing subjects of the job on a cluster, a task each."""

        def results(
            job: Job, out: Path, missing: Sequence[Subject]
        ) -> Iterator[tuple[Subject, dict | Exception]]:
            with cluster:
                yield from cluster.work(self.workshop, missing)

        return results


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
    add("--workers", type=int, help="so many trainings at a time on this machine, through Ray")
    add("--ray", metavar="ADDRESS", help="a Ray cluster; auto for that of this machine")
    add("--cpus-per-trial", type=float, default=1, help="Ray: CPU cores of a training (1)")
    add("--gpus-per-trial", type=float, default=0, help="Ray: GPUs of one; 0.5: two share one")
    return parser.parse_args(arguments)


def run(arguments: list[str]) -> str:
    """Does what is missing of a job, and returns a table of its adapters in Markdown."""
    options = parse(arguments)
    job, file = Job.read(options.file), Path(options.file).resolve()
    subjects = job.subjects(file.parent)
    out = (options.out or file.with_suffix("")).resolve()
    comfyui, base = find_comfyui(options.comfyui), options.base_directory
    enter(comfyui, base)
    from .trainer import check, work_off

    check(job)
    results = None
    if options.ray is not None or options.workers is not None:
        parts = options.workers or 1, options.cpus_per_trial, options.gpus_per_trial
        results = Setup(job, out, comfyui, base).on(Cluster(options.ray, *parts))
    return table(work_off(job, subjects, out, results)) + f"\n\nThe adapters are in {out}."


def table(done: Mapping[str, Mapping]) -> str:
    """Returns the table of adapters in Markdown."""
    lines = [f"| adapter | {' | '.join(COLUMNS.values())} |", "|---" + "|--:" * len(COLUMNS) + "|"]
    for name, facts in done.items():
        cells = [f"{facts[key]:.4g}" for key in COLUMNS]
        lines.append(f"| {name} | {' | '.join(cells)} |")
    return "\n".join(lines)
