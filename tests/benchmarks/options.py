"""What training options do on the playground: `nox -s bench-options` prints one line of each.

Each way to train is compared with the same mode without it, paired by subject and seed. An arm with
several learning rates gets the one with the least loss on the tuning subjects, and so does what it
is compared with; regularisers have the learning rate of their mode. Rows are kept in a file, so
that a second start goes on.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from functools import cache
from pathlib import Path
from zlib import crc32

import torch

from lora2_core.dataset.captions import without_captions
from lora2_core.host.apply import apply_lora
from lora2_core.host.data.encoding import CAPTION
from lora2_core.host.playground import load_playground
from lora2_core.host.training.choices import Choices
from lora2_core.host.training.examples import collate
from lora2_core.host.training.loan import on_loan
from lora2_core.host.training.objective import prediction_error
from lora2_core.host.training.run import train_on
from lora2_core.playground import asset
from lora2_core.training.loss import LossSettings
from tests.benchmarks.held_out import encode, held_out_loss
from tests.benchmarks.options_lab import CHANGES
from tests.benchmarks.ranks.pictures import TEST, TUNING, Picture, split
from tests.benchmarks.ranks.statistics import difference, geometric_mean
from tests.host.examples import examples_of

FILE = Path(__file__).parent / "results" / "options.jsonl"
FIELDS = {
    "steps": 100, "batch_size": 4, "target_rank": 4, "max_rank": 32, "layers": "all in blocks",
}  # fmt: skip
SEEDS = (0, 1)
CLASS, LEVELS = "koala", (0.5, 1.0, 2.0, 5.0)  # a thing that the playground knows; noise levels
MEASURES = {
    "background": "loss, unseen backgrounds", "style": "loss, unseen style",
    "moved": "how far the koala moves",
}  # fmt: skip


@dataclass(frozen=True)
class Arm:
    """A way to train: options of a mode, and what CHANGES has, which is no option of the pack.

    rates: learning rates that are tried; none: the one of `of`, the arm that it is compared with.
    """

    mode: str
    name: str
    rates: tuple[float, ...] = ()
    options: Mapping[str, object] = field(default_factory=dict)
    change: str = ""

    @property
    def key(self) -> str:
        return f"{self.mode}, {self.name}"

    @property
    def of(self) -> str:
        return f"{self.mode}, adamw"


RATES = (5e-3, 1e-2, 2e-2)
TUNED = tuple(
    arm
    for mode in ("fixed", "adaptive")
    for arm in (
        Arm(mode, "adamw", RATES),
        Arm(mode, "LoRA+, ratio 4", (2.5e-3, 5e-3, 1e-2), {"loraplus_lr_ratio": 4.0}),
        Arm(mode, "LoRA+, ratio 16", (1.25e-3, 2.5e-3, 5e-3), {"loraplus_lr_ratio": 16.0}),
        Arm(mode, "rank by timestep (T-LoRA)", RATES[1:], {}, "timestep_ranks"),
    )
) + (
    Arm("fixed", "Riemannian preconditioning", RATES, {}, "riemannian"),
    Arm("fixed", "LoRA-RITE", (2e-2, 6e-2, 2e-1), {}, "rite"),
)  # fmt: skip
REGULARISERS = tuple(
    Arm("adaptive", " ".join(f"{k} {v:g}" for k, v in options.items()), (), options)
    for options in (
        {"rank_dropout": 0.1}, {"module_dropout": 0.1}, {"caption_dropout": 0.1},
        {"scale_weight_norms": 1.0}, {"preserve_weight": 1.0},
    )
)  # fmt: skip
ARMS = {arm.key: arm for arm in (*TUNED, *REGULARISERS)}


@dataclass(frozen=True)
class Run:
    """One training."""

    arm: str
    rate: float
    subject: str
    seed: int


class Rows:
    """The results by run; every new one is a line of the file."""

    def __init__(self, path: Path = FILE):
        self.path = path
        lines = path.read_text().splitlines() if path.is_file() else []
        self.of = {Run(**row["run"]): row["measured"] for row in map(json.loads, lines)}

    def add(self, run: Run, measured: dict[str, float]) -> None:
        self.of[run] = measured
        self.path.parent.mkdir(exist_ok=True)
        with self.path.open("a") as file:
            file.write(json.dumps({"run": asdict(run), "measured": measured}) + "\n")

    def tuned(self, arm: Arm) -> dict[float, float]:
        """Returns the mean loss on the tuning subjects by learning rate; inf where one diverged."""
        losses = {}
        for rate in arm.rates:
            found = [self.of[run]["background"] for run in tuning(arm, rate) if run in self.of]
            if len(found) == len(TUNING):
                finite = all(map(math.isfinite, found))
                losses[rate] = (
                    math.exp(sum(map(math.log, found)) / len(found)) if finite else math.inf
                )
        return losses

    def rate(self, arm: Arm) -> float | None:
        """Returns the learning rate of an arm; None before it is known."""
        if not arm.rates:
            return self.rate(ARMS[arm.of])
        losses = self.tuned(arm)
        return min(losses, key=losses.get) if len(losses) == len(arm.rates) else None

    def logs(self, arm: Arm, measure: str) -> dict[tuple[str, int], float]:
        """Returns the logarithms of a measure by test subject and seed."""
        rate = self.rate(arm)
        wanted = [Run(arm.key, rate, s, seed) for s in TEST for seed in SEEDS] if rate else []
        found = {(run.subject, run.seed): self.of[run] for run in wanted if run in self.of}
        return {pair: math.log(row[measure]) for pair, row in found.items()}

    def wanted(self, arms: list[Arm], seeds: int, part: tuple[int, int]) -> list[Run]:
        """Returns the runs that are known to be needed: those of the test once the learning rate
        is. part: (i, n) for the i-th of n processes, each of which always gets the same runs.
        """
        runs = [run for arm in arms for rate in arm.rates for run in tuning(arm, rate)]
        for seed in SEEDS[:seeds]:
            for subject in TEST:
                rates = ((arm.key, self.rate(arm)) for arm in arms)
                runs += [Run(key, rate, subject, seed) for key, rate in rates if rate]
        mine = [run for run in runs if crc32(str(run).encode()) % part[1] == part[0] - 1]
        return [run for run in mine if run not in self.of]


def tuning(arm: Arm, rate: float) -> list[Run]:
    """Returns the runs by which a learning rate is judged."""
    return [Run(arm.key, rate, subject, 0) for subject in TUNING]


class Bench:
    """The playground, and pictures as its latents and conditioning."""

    def __init__(self) -> None:
        self.model, self.clip, self.vae = load_playground(asset.load())
        self.pictures = cache(self._pictures)
        self.of_class = cache(lambda subject: self.errors(self.model, subject))

    def _pictures(self, subject: str) -> dict[str, tuple[list, list]]:
        """Returns the sets of a subject, and its training pictures with captions of CLASS."""
        sets = split(subject)
        named = {kind: [(p, p.caption) for p in some] for kind, some in sets.items()}
        named["class"] = [(p, p.caption.replace(subject, CLASS)) for p in sets["train"]]
        return {kind: self.encoded(some) for kind, some in named.items()}

    def encoded(self, some: list[tuple[Picture, str]]) -> tuple[list, list]:
        captions = [caption for _, caption in some]
        latents, positive = encode(self.clip, self.vae, [p.image() for p, _ in some], captions)
        for ((_, facts),), caption in zip(positive, captions, strict=True):
            facts[CAPTION] = caption
        return latents, positive

    def train(self, run: Run):
        """Returns the adapter of a run."""
        arm = ARMS[run.arm]
        options = dict(arm.options)
        data = self.pictures(run.subject)["train"]
        if share := options.pop("caption_dropout", 0.0):
            sets = split(run.subject)["train"]
            # one entry of each picture is too few for a share of 10 percent
            entries = [(p, p.caption) for p in sets] * 3
            data = self.encoded(entries + without_captions(entries, share, run.seed))
        if "preserve_weight" in options:
            options |= {"preserve_prompt": f"{run.subject} = {CLASS}", "preserve_clip": self.clip}
        own = {"mode": arm.mode, "learning_rate": run.rate, "seed": run.seed}
        with CHANGES[arm.change]():
            choices = Choices.of(FIELDS | own | options)
            return train_on(self.model, *data, choices, lambda step: None).lora

    def errors(self, model, subject: str) -> torch.Tensor:
        """Returns the errors of the predictions for CLASS at fixed noise; differences of them are
        those of the predictions.
        """
        found = []
        with on_loan(model) as inner, torch.no_grad():
            items = examples_of(model, inner, *self.pictures(subject)["class"])
            latents, conditions = collate(items)
            generator = torch.Generator().manual_seed(99)
            for level in LEVELS:
                noise = torch.randn(latents.shape, generator=generator)
                rest = torch.full((len(items),), level), conditions, {}, LossSettings(), None
                found.append(prediction_error(inner, latents, noise, *rest)[0])
        return torch.stack(found)

    def measured(self, run: Run) -> dict[str, float]:
        """Trains and measures."""
        start = time.process_time()
        lora = self.train(run)
        seconds = time.process_time() - start
        model = apply_lora(self.model, None, lora, 1.0, 1.0)[0]
        pictures = self.pictures(run.subject)
        row = {kind: held_out_loss(model, pictures[kind]) for kind in ("background", "style")}
        moved = self.errors(model, run.subject) - self.of_class(run.subject)
        return row | {
            "moved": float(moved.square().mean()),
            "mb": lora.megabytes(),
            "seconds": seconds,
        }


def report(rows: Rows) -> str:
    """Returns a table in Markdown: each arm against adamw of its mode, by subject and seed."""
    lines = ["| | learning rate | " + " | ".join(MEASURES.values()) + " | runs | time |"]
    lines.append("|---|--:|" + "--:|" * (len(MEASURES) + 2))
    for arm in ARMS.values():
        own, cells = rows.logs(arm, "background"), []
        if not own:
            continue
        base = ARMS[arm.of]
        for measure in MEASURES:
            logs = rows.logs(arm, measure)
            if arm is base:
                cells.append(f"{geometric_mean(logs):.4f}")
            else:
                mean, low, high = difference(logs, rows.logs(base, measure)).exp()
                cells.append(
                    f"{100 * (mean - 1):+.1f} % ({100 * (low - 1):+.1f} to {100 * (high - 1):+.1f})"
                )
        seconds = difference(rows.logs(arm, "seconds"), rows.logs(base, "seconds")).mean
        cells += [str(len(own)), f"{math.exp(seconds):.2f} ×"]
        lines.append(f"| {arm.key} | {rows.rate(arm):g} | {' | '.join(cells)} |")
    lines += [
        "",
        "| tuned on other subjects | learning rate: loss on unseen backgrounds |",
        "|---|---|",
    ]
    for arm in TUNED:
        losses, best = rows.tuned(arm), rows.rate(arm)
        cells = [f"{r:g}: {loss:.4f}" for r, loss in losses.items()]
        cells = [f"**{c}**" if r == best else c for r, c in zip(losses, cells, strict=True)]
        if cells:
            lines.append(f"| {arm.key} | {', '.join(cells)} |")
    return "\n".join(lines)


def main() -> None:
    options = argparse.ArgumentParser(prog="bench-options")
    options.add_argument("--report", action="store_true", help="print the table, train nothing")
    options.add_argument("--part", default="1/1", help="I/N: every N-th run, from the I-th on")
    options.add_argument("--arms", default="", help="only those whose name has this")
    options.add_argument("--seeds", type=int, default=len(SEEDS))
    options.add_argument("--seconds", type=float, default=math.inf, help="begin no run after these")
    chosen = options.parse_args()
    rows, begun = Rows(), time.monotonic()
    if not chosen.report:
        torch.set_num_threads(1)
        index, count = map(int, chosen.part.split("/"))
        arms = [arm for arm in ARMS.values() if chosen.arms in arm.key or arm.key == arm.of]
        bench = Bench()
        with torch.inference_mode():
            while runs := rows.wanted(arms, chosen.seeds, (index, count)):
                for run in runs:
                    if time.monotonic() - begun > chosen.seconds:
                        return
                    rows.add(run, bench.measured(run))
                    print(run, rows.of[run], flush=True)
                rows = Rows()
    sys.stdout.write(report(rows) + "\n")


if __name__ == "__main__":
    main()
