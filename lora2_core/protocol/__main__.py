"""The command line: `python -m lora2_core.protocol --plan sdxl --data FOLDER --out FOLDER`, and for
single trainings `python -m lora2_core.protocol train FILE`.
"""

from __future__ import annotations

import argparse
import logging
import sys
from functools import partial
from pathlib import Path

from . import train
from .dreambooth import read_subjects
from .headless import find_comfyui
from .json_file import known
from .on_ray import Cluster
from .plan import PRESETS, Plan, Trial, trials
from .report import write_report
from .search import SEARCHES, Search
from .search_report import write_search_report
from .table import Table
from .work import Setup, one_by_one, work_off


def parse(arguments: list[str] | None = None) -> argparse.Namespace:
    """Returns the options of the command line."""
    parser = argparse.ArgumentParser(
        prog="python -m lora2_core.protocol",
        description="Trains, draws with and scores adapters over subjects, methods and seeds. "
        "A second start goes on where the first one ended. `train FILE` instead trains what a "
        "file says: see `train --help`.",
    )
    add = parser.add_argument
    add("--plan", required=True, metavar="FILE", help=f"a JSON file, or one of {known(PRESETS)}")
    add("--data", required=True, type=Path, help="a folder in DreamBooth's layout")
    add("--out", required=True, type=Path, help="where table, report and pictures go")
    add("--checkpoint", help="a name in the checkpoints folder, or a file")
    add("--clip-folder", help="a CLIP in transformers' form, for CLIP-I and CLIP-T")
    add("--dino-folder", help="a DINO in transformers' form")
    add("--subjects", type=words, help="names, with commas between; all without")
    add("--seeds", type=numbers, help="with commas between")
    add("--steps", type=int, help="at most so many training steps, to try things")
    add("--prompts", type=int, help="of each subject")
    add("--images", type=int, help="of each prompt")
    add("--comfyui", help="ComfyUI's folder; found by itself when the pack is installed there")
    add("--base-directory", type=Path, help="models, inputs and outputs; ComfyUI's own without")
    add("--workers", type=int, help="so many trials at a time on this machine, through Ray")
    add("--ray", metavar="ADDRESS", help="a Ray cluster; auto for that of this machine")
    add("--cpus-per-trial", type=float, default=1, help="Ray: CPU cores of a trial (1)")
    add("--gpus-per-trial", type=float, default=0, help="Ray: GPUs of a trial; 0.5: two share one")
    add(
        "--search",
        metavar="FILE",
        help="tries settings beside the plan's training through Ray "
        f"Tune, instead of its methods: a JSON file, or {known(SEARCHES)}",
    )
    add("--report", action="store_true", help="write the report of what is finished, no more")
    return parser.parse_args(arguments)


def words(text: str) -> list[str]:
    """Returns the parts of a text between its commas."""
    return [word.strip() for word in text.split(",") if word.strip()]


def numbers(text: str) -> list[int]:
    """Returns the integers of a text with commas between them."""
    return [int(word) for word in words(text)]


def run(options: argparse.Namespace) -> str:
    """Runs the trials that are missing, writes the report, and returns its Markdown."""
    names = ("checkpoint", "clip_folder", "dino_folder", "seeds", "prompts", "images")
    plan = Plan.read(options.plan, **{name: getattr(options, name) for name in names})
    search, tried = None, plan
    if options.search is not None:
        search = Search.read(options.search)
        search.check(plan)
        tried = search.applied(plan)
    if options.steps is not None:
        plan, tried = plan.shortened(options.steps), tried.shortened(options.steps)
    wanted = trials(tried, read_subjects(options.data, options.subjects))
    table = Table(options.out / "trials.csv")
    try:
        if not options.report and table.missing(wanted):
            work(options, tried, search, table, wanted)
    finally:  # the report of a stopped sweep is written too
        if search is None:
            text = write_report(plan, table, wanted, options.out)
        else:
            text = write_search_report(search, tried, plan, table, wanted, options.out)
    return text


def work(
    options: argparse.Namespace,
    plan: Plan,
    search: Search | None,
    table: Table,
    wanted: list[Trial],
) -> None:
    """Runs the trials that the table lacks: in this process, or on Ray's workers."""
    data, out = options.data.resolve(), options.out.resolve()
    setup = Setup(plan, data, out, find_comfyui(options.comfyui), options.base_directory)
    if options.ray is None and options.workers is None and search is None:
        return work_off(partial(one_by_one, setup.workshop), table, wanted)
    parts = options.workers or 1, options.cpus_per_trial, options.gpus_per_trial
    with Cluster(options.ray, *parts) as cluster:
        if search is None:
            return work_off(partial(cluster.work, setup.workshop), table, wanted)
        from .on_tune import search_on

        return search_on(cluster, search, setup.workshop, table, wanted)


def main() -> None:
    logging.basicConfig(level=logging.WARNING, format="%(message)s", stream=sys.stderr)
    logging.getLogger("lora2").setLevel(logging.INFO)
    arguments = sys.argv[1:]
    try:
        text = train.run(arguments[1:]) if arguments[:1] == ["train"] else run(parse())
        sys.stdout.write(text + "\n")
    except (ValueError, RuntimeError) as error:
        sys.exit(str(error))
    except KeyboardInterrupt:
        sys.exit("Stopped: start again to go on.")


if __name__ == "__main__":
    main()
