"""Experiment F: each departure of adaptive mode from the paper taken back, one at a time.

Judged on the planted ranks of experiment A at a ceiling that just holds them, and on the tuning
subjects at a small size (denoising loss on unseen backgrounds).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path
from unittest.mock import patch

import torch
from torch import Tensor

from lora2_core import RankSettings
from lora2_core.adapter import allocation
from lora2_core.layers import adapters
from lora2_core.ranks import modes
from lora2_core.ranks.rank import relative_importance
from lora2_core.training import auction
from lora2_core.training import settings as training
from tests.benchmarks.ranks import planted
from tests.benchmarks.ranks.pictures import TUNING
from tests.benchmarks.ranks.quality import markdown
from tests.benchmarks.ranks.runs import Run
from tests.hosting.provision import cache_folder

TARGET, RATE, STEPS, SEEDS = 4, 2e-2, 200, 1
PLANTED_TARGET = 16
Change = Callable[[ExitStack], None]


def constant(module: object, name: str, value: object) -> Change:
    return lambda stack: stack.enter_context(patch.object(module, name, value))


def default(**values: float) -> Change:
    """Other defaults of adaptive mode."""
    return constant(modes.Adaptive, "defaults", replace(modes.Adaptive.defaults, **values))


def unit_weights(rates: Tensor, ranks: Tensor, mean_rank: float, length: int) -> Tensor:
    """Importance 1 at the first position, whatever the rank."""
    return relative_importance(rates, length)


def energy_alone(lora_up: Tensor, second_moment: Tensor) -> Tensor:
    """Squared singular values, as the post-hoc methods have them."""
    return lora_up.square().sum(-2)


def one_target(worths: list[Tensor], costs: list[float], parameters: float) -> list[int]:
    """The paper's one nu* for all layers, at the allowed size."""
    return [min(len(w), round(parameters / sum(costs))) for w in worths]


def at_least_one(worths: list[Tensor], costs: list[float], parameters: float) -> list[int]:
    return [max(1, rank) for rank in allocation.share_out(worths, costs, parameters)]


turn_some = adapters.Adapters.turn


def turn_all(self: adapters.Adapters, turns: dict, optimizer: torch.optim.Optimizer) -> None:
    turn_some(self, self.singular_turns(), optimizer)


VARIANTS: dict[str, list[Change]] = {
    "adaptive, as it is": [],
    "one target rank for all layers": [constant(auction, "share_out", one_target)],
    "worth by energy, not by the loss": [constant(auction, "position_worth", energy_alone)],
    "layers compared untempered": [constant(auction, "tempered", lambda worth: worth)],
    "no turn to the singular basis": [
        constant(adapters.Adapters, "singular_turns", lambda self: {})
    ],
    "every layer turned at each review": [constant(adapters.Adapters, "turn", turn_all)],
    "update moves with the rates": [constant(adapters.Component, "rescale", lambda self, *_: None)],
    "importance falls steeply (quantile 0.9)": [default(quantile=0.9)],
    "no rank stabilisation": [constant(modes, "stable_weights", unit_weights)],
    "every layer keeps a rank": [constant(auction, "share_out", at_least_one)],
    "start at the target": [constant(modes, "FIRST_SHARE", 1)],
    "start at twice the target": [constant(modes, "FIRST_SHARE", 2)],
    "start at three times the target": [constant(modes, "FIRST_SHARE", 3)],
    "size reached, and noise cut, from a fifth of the run": [constant(auction, "SIZED", 0.2)],
    "constant learning rate": [constant(training, "FALLING", 0.0)],
    "no weight decay": [default(weight_decay=0.0)],
    "40 reviews": [constant(auction, "REVIEWS", 40)],
}


@contextmanager
def changed(name: str) -> Iterator[None]:
    """The sources with one departure taken back."""
    with ExitStack() as stack:
        for change in VARIANTS[name]:
            change(stack)
        yield


def pictures_row(bench, steps: int, subjects: tuple[str, ...]) -> dict:
    """Geometric mean of the losses on training pictures and unseen backgrounds."""
    logs: dict[str, list[float]] = {"train": [], "background": []}
    for subject in subjects:
        for seed in range(SEEDS):
            run = Run(subject, "adaptive", TARGET, RATE, seed=seed, steps=steps, own=0)
            row = bench.measure(run, bench.train(run))
            for kind, values in logs.items():
                values.append(math.log(row[kind]))
    return {kind: math.exp(sum(values) / len(values)) for kind, values in logs.items()}


@torch.inference_mode()
def run(out: Path, *, quick: bool = False) -> dict:
    """{"variants": rows}; nothing is left in `out`."""
    from tests.benchmarks.ranks.worker import Bench

    bench, rows = Bench(cache_folder() / "playground"), []
    for name in VARIANTS:
        with changed(name):
            row = pictures_row(bench, 4 if quick else STEPS, TUNING[:1] if quick else TUNING)
            with torch.inference_mode(False), torch.enable_grad():
                chosen = RankSettings(target_rank=PLANTED_TARGET)
                steps = 20 if quick else planted.STEPS
                row["planted"] = planted.measure(planted.Condition(), chosen, steps)
        rows.append(row | {"name": name})
    return {"variants": rows}


def table(results: dict) -> str:
    """Markdown: a line a variant."""
    head = ["variant", "planted ranks learned", "inside", "clean error", "unseen", "training"]
    best, lines = results["variants"][0], []
    for row in results["variants"]:
        found = row["planted"]
        lines.append(
            [
                row["name"], " ".join(map(str, found["ranks"])),
                f"{found['inside']} of {len(planted.RANKS)}",
                f"{found['clean'] / best['planted']['clean']:.1f} x",
                f"{row['background']:.4f} ({row['background'] / best['background'] - 1:+.1%})",
                f"{row['train']:.4f}",
            ]
        )  # fmt: skip
    planted_ranks = " ".join(map(str, planted.RANKS))
    subjects = ", ".join(TUNING)
    return (
        f"Planted ranks {planted_ranks} at target {PLANTED_TARGET} (clean error relative to the "
        f"first line); losses of {subjects} at target {TARGET} of attention alone, learning "
        f"rate {RATE:g}, one seed: differences of a few percent are within chance.\n\n"
        + markdown(head, lines)
    )
