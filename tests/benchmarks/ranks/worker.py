"""One process that trains and measures: a Run as JSON on each line of standard input, the rows of
its adapters on a line of standard output.
"""

from __future__ import annotations

import json
import os
import sys
import time
from functools import cache, partial
from pathlib import Path

import comfy.utils
import torch
from torch import nn

from lora2_core import RankedLora, RankSettings, TrainSettings
from lora2_core.host.apply import apply_lora
from lora2_core.host.playground import load_playground
from lora2_core.host.training.choices import Choices
from lora2_core.host.training.run import train_on
from lora2_core.layers.targets import TargetSettings
from lora2_core.playground import asset
from lora2_core.units import megabytes
from tests.benchmarks.held_out import Pictures, encode, held_out_loss, own_pictures
from tests.benchmarks.ranks import rivals
from tests.benchmarks.ranks.controls import (
    largest_sv_fro,
    largest_sv_ratio,
    largest_threshold,
    largest_uniform,
)
from tests.benchmarks.ranks.features import Features
from tests.benchmarks.ranks.pictures import STYLE_SETS, Picture, sets_of
from tests.benchmarks.ranks.rival_training import Rivals
from tests.benchmarks.ranks.runs import FLOW, PLAYGROUND, Run
from tests.benchmarks.ranks.versions import version_of
from tests.playground import flow

BATCH, MAX_RANK = 8, 96
RESIZE = {
    "sv_fro": largest_sv_fro, "sv_ratio": largest_sv_ratio, "uniform": largest_uniform,
    rivals.THRESHOLD: largest_threshold,
}  # fmt: skip


class Bench:
    """A base, and the pictures as its latents and conditioning."""

    def __init__(self, playground: Path, base: str = PLAYGROUND):
        self.folder, parts = playground, asset.load()
        if base == FLOW:
            loaded = flow.load_flow(playground / flow.FILE, parts)
        else:
            loaded = load_playground(parts)
        self.model, self.clip, self.vae = loaded
        self.cost, self.rivals = cache(self._cost), Rivals(self)
        self.features = cache(lambda: Features(playground))
        self.sets, self.own = cache(self._sets), cache(self._own)

    def encode(self, pictures: list[Picture]) -> Pictures:
        images, captions = [p.image() for p in pictures], [p.caption for p in pictures]
        return encode(self.clip, self.vae, images, captions)

    def _sets(self, name: str) -> dict[str, Pictures]:
        return {kind: self.encode(pictures) for kind, pictures in sets_of(name).items()}

    def _own(self, count: int) -> Pictures:
        return encode(self.clip, self.vae, *own_pictures(self.folder, count))

    def _cost(self, layers: str) -> int:
        """Parameters that one rank in each of these layers has."""
        return sum(len(m.weight) + m.weight[0].numel() for m in self.layers(layers).values())

    def layers(self, layers: str) -> dict[str, nn.Module]:
        """The layers of a kind, by name."""
        return TargetSettings(layers).chosen(self.model.model)

    def parameters(self, run: Run) -> float:
        """The parameters that a run may have: the share of those of its rank."""
        return run.share * run.rank * self.cost(run.layers)

    def choices(self, run: Run, rank: RankSettings) -> Choices:
        training = TrainSettings(run.steps, run.rate, run.seed)
        return Choices(rank, training, BATCH, target=TargetSettings(run.layers))

    def train(self, run: Run) -> RankedLora:
        if run.method in rivals.METHODS:
            return self.rivals.train(run)
        budget = 0.0 if run.share == 1 else megabytes(self.parameters(run))
        settings = RankSettings(
            mode=run.method, target_rank=run.rank, max_rank=MAX_RANK, budget_mb=budget
        )
        return self.trained(run, self.choices(run, settings))

    def trained(self, run: Run, choices: Choices) -> RankedLora:
        """The adapter that the choices make of a run's pictures."""
        pictures = self.sets(run.pictures)["train"]
        outcome = train_on(self.model, *pictures, choices, lambda step: None)
        if outcome.stopped_by is not None:
            print(f"{run.to_json()} stopped: {outcome.stopped_by}", file=sys.stderr)
        return outcome.lora

    def cut(self, run: Run, lora: RankedLora, way: str, size: float) -> RankedLora:
        """See Run.cuts."""
        if way == "truncated":
            return lora.truncated(size)
        return RESIZE[way](lora, size * self.cost(run.layers))

    def measure(self, run: Run, lora: RankedLora | None) -> dict:
        """Denoising losses, size in MB and ranks, and what the judge sees in samples."""
        model = self.model
        if lora is not None:
            model = apply_lora(model, None, lora, 1.0, 1.0)[0]
        row = {kind: held_out_loss(model, held) for kind, held in self.sets(run.pictures).items()}
        if run.own:
            row["own"] = held_out_loss(model, self.own(run.own))
        if lora is not None:
            ranks = [lora.ranks.get(name, 0) for name in self.layers(run.layers)]
            row |= {"mb": lora.megabytes(), "ranks": ranks}
        if lora is not None and lora.others:
            row["setting"] = dict(lora.origin.run.settings)
        if run.samples and run.pictures not in STYLE_SETS:
            row |= self.features().compare(model, self.clip, self.vae, sets_of(run.pictures))
        return row

    def rows(self, run: Run) -> list[dict]:
        """Trains, cuts and measures; a row for each of run.configs()."""
        start = time.perf_counter()
        lora = None if run.method == "base" else self.train(run)
        seconds = time.perf_counter() - start
        loras = [lora, *(self.cut(run, lora, *cut) for cut in run.cuts)]
        version = version_of(run.method)
        return [
            {"config": config, "version": version, "seconds": seconds} | self.measure(run, each)
            for config, each in zip(run.configs(), loras, strict=True)
        ]


@torch.inference_mode()
def main() -> None:
    torch.set_num_threads(1)
    comfy.utils.PROGRESS_BAR_ENABLED = False
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # whatever the host prints must not come between the answers
    bench = cache(partial(Bench, Path(sys.argv[1])))
    for line in sys.stdin:
        run = Run.from_json(line)
        answers.write(json.dumps(bench(run.base).rows(run)) + "\n")
        answers.flush()


if __name__ == "__main__":
    main()
