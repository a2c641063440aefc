"""Files in fp8 against files of the same bytes in fp16, which have half of the rank: `nox -s
bench-files -- eight`. On the playground: loss on backgrounds that no training picture has.
"""

from __future__ import annotations

import math
import tempfile
from pathlib import Path
from statistics import fmean

from lora2_core import RankedLora, load, save
from tests.benchmarks.ranks.pictures import TEST
from tests.benchmarks.ranks.runs import Run
from tests.benchmarks.ranks.statistics import Values, difference
from tests.benchmarks.ranks.tuning import WIDE
from tests.benchmarks.ranks.worker import Bench

RATE, RANKS, LOSS = 5e-3, (1, 2), "background"


def figures() -> dict:
    """Ratios of losses with their intervals over subjects, and the error of the update."""
    bench = Bench(Path())
    losses: dict[str, Values] = {what: {} for what in ("fp16", "fp8", "cut", "half")}
    error = []
    for subject in TEST:
        small, large = (
            bench.train(Run(subject, "adaptive", rank, RATE, layers=WIDE)) for rank in RANKS
        )
        stored = {
            "fp16": as_file(large, "fp16"), "fp8": as_file(large, "fp8"),
            "cut": large.truncated(0.5), "half": as_file(small, "fp16"),
        }  # fmt: skip
        error.append(off(stored["fp8"], large))
        for what, lora in stored.items():
            losses[what][subject, 0] = loss(bench, subject, lora)
    ratios = {
        "fp8 over fp16 of twice the bytes": ("fp8", "fp16"),
        "fp8 over fp16 of the same bytes, trained so": ("fp8", "half"),
        "fp8 over fp16 of the same bytes, cut so": ("fp8", "cut"),
    }
    found: dict = {"relative error of the update in fp8": fmean(error)}
    for what, (one, other) in ratios.items():
        logs = [{pair: math.log(x) for pair, x in losses[k].items()} for k in (one, other)]
        found[what] = "{:.4f} ({:.4f} to {:.4f})".format(*difference(*logs).exp())
    return found


def as_file(lora: RankedLora, dtype: str) -> RankedLora:
    """The adapter as it comes back from a file."""
    with tempfile.TemporaryDirectory() as folder:
        save(Path(folder, "a.safetensors"), lora, dtype=dtype)
        return load(Path(folder, "a.safetensors"))


def off(lora: RankedLora, wanted: RankedLora) -> float:
    """The relative error of an adapter's update."""
    some = [name for name, layer in wanted.layers.items() if layer.rank]
    lost = sum(
        float((lora.layers[n].delta() - wanted.layers[n].delta()).square().sum()) for n in some
    )
    return math.sqrt(lost / sum(float(wanted.layers[n].delta().square().sum()) for n in some))


def loss(bench: Bench, subject: str, lora: RankedLora) -> float:
    return bench.measure(Run(subject, "adaptive", own=0), lora)[LOSS]
