"""All experiments on ranks; an interrupted run goes on where it stopped.

A: planted ranks, B: quality at equal bytes, C: truncation, D: compression, E: rank maps of styles,
F: departures from the paper, one by one, G: random problems of planted ranks, H: all layers,
against other ways to spend the same bytes.
`--base flow` makes the runs of H on the second base, the flow transformer that `nox -s train-flow`
trains: experiment I. Results are JSON lines in FOLDER, tables and plots are written there too;
learning rates are tuned first. A size of H has further seeds until it is decided.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from importlib import import_module
from pathlib import Path

from tests.benchmarks.ranks import report, rivals, wide
from tests.benchmarks.ranks.crew import work_off
from tests.benchmarks.ranks.found import SEEDS
from tests.benchmarks.ranks.plan import STEPS, Plan
from tests.benchmarks.ranks.runs import FLOW, PLAYGROUND, Ledger, Run
from tests.benchmarks.ranks.tuning import (
    CLASSES,
    EVERY_CLASS,
    FLOW_CLASSES,
    RATES,
    RIVAL_CLASSES,
    WIDE_CLASSES,
    Class,
    tune,
    write_rates,
)
from tests.benchmarks.ranks.versions import version_of
from tests.hosting.inprocess import REPOSITORY
from tests.hosting.provision import cache_folder
from tests.playground.evaluate import Base
from tests.playground.pictures import load

METHODS = ("fixed", "paper", "adaptive", *rivals.METHODS)
RUNS = {"B": Plan.quality, "C": Plan.truncation, "E": Plan.styles}
TUNED = {"B": CLASSES, "H": (*WIDE_CLASSES, *RIVAL_CLASSES)}  # else those of adaptive
ADAPTIVE = [c for c in CLASSES if c.method == "adaptive"]


def seeds_of(text: str) -> tuple[int, int]:
    """The first and the last seed of `60-99` or `60`."""
    first, _, last = text.partition("-")
    return int(first), int(last or first)


def arguments() -> argparse.Namespace:
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("folder", type=Path, help="results folder")
    options.add_argument("--only", nargs="+", choices="ABCDEFGH")
    options.add_argument(
        "--base", choices=(PLAYGROUND, FLOW), default=PLAYGROUND, help="the model of the runs of H"
    )
    options.add_argument("--steps", type=int, help="of a run on this base")
    options.add_argument("--seeds", type=int, default=5)
    options.add_argument(
        "--problems", type=seeds_of, default=SEEDS, help="seeds of G, such as 60-99"
    )
    options.add_argument("--constants", action="store_true", help="G also changes each constant")
    options.add_argument("--quick", action="store_true", help="a few steps, to see that it works")
    options.add_argument(
        "--report", action="store_true", help="run nothing; also write docs/results.md"
    )
    options.add_argument(
        "--tune", nargs="+", choices=METHODS, help="only tune the learning rates of these"
    )
    options.add_argument(
        "--reuse",
        nargs="+",
        choices=METHODS,
        default=[],
        help="accept results of these methods from other versions of the sources",
    )
    options.add_argument(
        "--tuned", action="store_true", help="take the learning rates that FOLDER has"
    )
    options.add_argument("--workers", type=int, default=2, help="processes of one thread each")
    options.add_argument(
        "--playground", type=Path, default=cache_folder() / "playground", help="pictures and judge"
    )
    args = options.parse_args()
    args.only = args.only or ["H"] if args.base == FLOW else args.only or list("ABCDEFGH")
    if args.base == FLOW and args.only != ["H"]:
        options.error(f"--base {FLOW} has experiment H alone")
    args.steps = STEPS | ({args.base: args.steps} if args.steps else {})
    if args.quick:
        args.steps, args.seeds = {base: min(n, 6) for base, n in args.steps.items()}, 1
    return args


def prepare(playground: Path, runs: list[Run]) -> None:
    """Pictures and judge are there before several workers want them."""
    if any(run.own for run in runs):
        load(playground)
    if any(run.samples for run in runs) and not (playground / "judge.pt").exists():
        print("preparing the pictures and the judge of samples", flush=True)
        Base(playground).judge()


def run_module(letter: str, folder: Path, *, quick: bool, **options) -> None:
    """Experiments A, D, F and G, into a file of their own."""
    name = report.MODULES[letter]
    path, version = folder / f"{name}.json", f"{version_of('adaptive')}{'-quick' * quick}"
    version += "".join(f"-{name}-{value}" for name, value in options.items())
    if path.exists() and json.loads(path.read_text())["version"] == version:
        return
    module = import_module(f"{report.__package__}.{name}")
    results = module.run(folder / name, quick=quick, **options)
    path.write_text(json.dumps({"version": version, "results": results}, indent=1) + "\n")


def main() -> None:
    args = arguments()
    args.folder.mkdir(parents=True, exist_ok=True)
    ledger = Ledger(args.folder, args.reuse)
    plan, flow = (Plan(args.steps[b], args.seeds, args.quick, b) for b in (PLAYGROUND, FLOW))
    asked = flow if args.base == FLOW else plan

    def work(runs: list[Run]) -> None:
        prepare(args.playground, [run for run in runs if not ledger.done(run)])
        work_off(runs, ledger, args.playground, args.workers)

    def tuned_rates(classes: Sequence[Class]) -> dict:
        found = tune(classes, ledger, work, asked.steps, quick=args.quick)
        return write_rates(args.folder, found)

    path = args.folder / RATES
    known = json.loads(path.read_text()) if path.exists() else {}
    if args.tune:
        wanted = [c for c in EVERY_CLASS if c.base == args.base and c.method in args.tune]
        print(json.dumps(tuned_rates(wanted), indent=1))
        return
    if not args.report:
        for letter in args.only:
            if letter in report.MODULES:
                options = {}
                if letter == "G":
                    options = {"seeds": args.problems, "constants": args.constants}
                run_module(letter, args.folder, quick=args.quick, **options)
            else:
                classes = FLOW_CLASSES if args.base == FLOW else TUNED.get(letter, ADAPTIVE)
                rates = known if args.tuned else tuned_rates(classes)
                if letter == "H":
                    for seed in range(asked.seeds):
                        work(wide.undecided(asked, ledger, rates, seed))
                else:
                    work(RUNS[letter](asked, rates))
    rates = json.loads(path.read_text()) if path.exists() else {}
    print(report.write(plan, flow, ledger, rates, args.folder, args.folder))
    if args.report and not args.quick:
        report.write(plan, flow, ledger, rates, args.folder, REPOSITORY / "docs")


if __name__ == "__main__":
    main()
