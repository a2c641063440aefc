"""Speed and memory of training: an interrupted run goes on where it stopped.

steps: seconds of a step, variants side by side; memory: peak, parameters and setup, each variant in
a process of its own; setup: that alone; profile: where the time of a step goes; journey: node start
to saved file; growth: step time against size; loading: adapters onto the model.
"""

from __future__ import annotations

import argparse
import logging
import warnings
from pathlib import Path

from tests.benchmarks.speed import growth, journey, loading, profile, report, timing
from tests.benchmarks.speed.models import SPECS, free_gigabytes
from tests.benchmarks.speed.pace import watch_reviews
from tests.benchmarks.speed.probe import each
from tests.benchmarks.speed.store import Store
from tests.benchmarks.speed.variants import VARIANTS
from tests.hosting.inprocess import REPOSITORY

RESULTS = Path(__file__).parent / "results"
PARTS = ("steps", "memory", "setup", "profile", "journey", "growth", "loading")
BESIDE = {  # variants on one model
    "steps": timing.measure, "memory": each("train"), "setup": each("setup"),
    "profile": profile.measure,
}  # fmt: skip
QUICK = ("limit", "fixed", "adaptive", "built-in", "PEFT")


def arguments() -> argparse.Namespace:
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("folder", type=Path, nargs="?", default=RESULTS, help="results folder")
    options.add_argument("--only", nargs="+", choices=PARTS, default=list(PARTS))
    options.add_argument("--models", nargs="+", choices=SPECS, default=list(SPECS))
    options.add_argument("--variants", nargs="+", choices=VARIANTS, default=list(VARIANTS))
    options.add_argument("--repeats", type=int, default=15, help="measured steps of each variant")
    options.add_argument("--quick", action="store_true", help="a few steps, to see that it works")
    options.add_argument(
        "--report", action="store_true", help="run nothing; write docs/performance.md"
    )
    options.add_argument(
        "--reuse", action="store_true", help="accept results of other sources or settings"
    )
    args = options.parse_args()
    if args.quick:
        args.repeats, args.models, args.variants = 1, ["playground"], list(QUICK)
    return args


def compare(store: Store, args: argparse.Namespace, part: str, name: str) -> None:
    """The parts that set the variants side by side on one model."""
    done = store.rows(part, name)
    missing = [v for v in args.variants if v not in done]
    if part == "profile":
        missing = [v for v in missing if v in profile.PROFILED]
    if not missing:
        return
    if free_gigabytes() < SPECS[name].gigabytes:
        print(
            f"{SPECS[name].title}: skipped, needs {SPECS[name].gigabytes:g} GB of free memory and "
            f"{free_gigabytes():.1f} GB are free."
        )
        return
    print(f"{part}: {SPECS[name].title}", flush=True)

    def keep(variant: str, row: dict) -> None:
        store.keep(part, name, variant, row)

    BESIDE[part](name, args.repeats, keep, missing)


def main() -> None:
    args = arguments()
    logging.getLogger().setLevel(logging.ERROR)
    warnings.filterwarnings("ignore", message="In CPU autocast")
    watch_reviews()
    if args.report:
        print(report.write(args.folder, REPOSITORY / "docs"))
        return
    settings = {"repeats": args.repeats, "quick": args.quick}
    store = Store(args.folder, settings, args.reuse)
    for part in args.only:
        if part in BESIDE:
            for name in args.models:
                compare(store, args, part, name)
        else:
            module = {"journey": journey, "growth": growth, "loading": loading}[part]
            module.run(store, args.repeats, quick=args.quick)
    print(report.write(args.folder, args.folder))


if __name__ == "__main__":
    main()
