"""How each of rivals.METHODS is trained, in the host."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import replace
from functools import cache

from torch import nn

from lora2_core import RankedLora, RankSettings
from lora2_core.adapter.compress import compress
from lora2_core.host.training.choices import Choices
from lora2_core.host.training.start import StartSettings
from lora2_core.layers.targets import REGEX, TargetSettings
from lora2_core.units import megabytes
from tests.benchmarks.ranks import other_kinds, rivals, spectra
from tests.benchmarks.ranks.runs import Run

ANOTHER_SEED = 1000  # added to the run's after a cut, so that no batch comes twice


def at_ranks(choices: Choices, ranks: Mapping[str, int]) -> Choices:
    """The choices as plain LoRA of these ranks; layers of rank 0 are left out."""
    names = {re.escape(name): rank for name, rank in ranks.items() if rank}
    lines = "\n".join(f"^{name}$ = {rank}" for name, rank in names.items())
    target = TargetSettings(REGEX, f"^({'|'.join(names)})$")
    rank = RankSettings("fixed", max(ranks.values()), layer_ranks=lines)
    return replace(choices, rank=rank, target=target)


class Rivals:
    """Trains the rivals on a base; bench: worker.Bench."""

    def __init__(self, bench):
        self.bench = bench
        self.setting = cache(self._setting)

    def train(self, run: Run) -> RankedLora:
        if run.method in rivals.SPLITS:
            return self.recovered(run)
        if run.method == rivals.THRESHOLD:
            return self.full(run, run.steps, run.rate)
        if run.method in rivals.OTHER_KINDS:
            return self.other_kind(run)
        return self.by_spectrum(run)

    def layers(self, run: Run) -> dict[str, nn.Module]:
        return TargetSettings(run.layers).chosen(self.bench.model.model)

    def full(self, run: Run, steps: int, rate: float) -> RankedLora:
        """Plain LoRA of the full rank."""
        rank = RankSettings("fixed", rivals.FULL_RANK)
        return self.bench.trained(run, self.bench.choices(replace(run, steps=steps, rate=rate), rank))

    def recovered(self, run: Run) -> RankedLora:
        steps = round(run.steps * rivals.SPLITS[run.method])
        whole = self.full(run, steps, rivals.FIRST_RATE)
        cut = compress(whole, budget_mb=megabytes(self.bench.parameters(run)), tolerance=0)
        rest = replace(run, steps=run.steps - steps, seed=run.seed + ANOTHER_SEED)
        choices = at_ranks(self.bench.choices(rest, RankSettings("fixed")), cut.ranks)
        start = StartSettings(cut, adopt_layers=False)
        return self.bench.trained(run, replace(choices, start=start))

    def _setting(self, kind: str, layers: str, parameters: float) -> other_kinds.Setting:
        found = TargetSettings(layers).chosen(self.bench.model.model)
        return other_kinds.setting_for(kind, found, parameters)

    def other_kind(self, run: Run) -> RankedLora:
        choices = self.bench.choices(run, RankSettings("fixed"))
        if rivals.OTHER_KINDS[run.method]:
            bare = replace(choices.training, schedule="constant", weight_decay=0.0)
            choices = replace(choices, training=bare)
        kind = run.method.removesuffix(rivals.BARE)
        setting = self.setting(kind, run.layers, self.bench.parameters(run))
        pictures = self.bench.sets(run.pictures)["train"]
        return other_kinds.train(self.bench.model, pictures, choices, kind, setting)

    def by_spectrum(self, run: Run) -> RankedLora:
        layers = self.layers(run)
        if run.method == "weights":
            spectrum = spectra.of_weights(layers)
        else:
            pictures = self.bench.sets(run.pictures)["train"]
            spectrum = spectra.of_inputs(self.bench.model, layers, pictures)
        ranks = spectra.ranks_by(
            spectrum, layers, self.bench.parameters(run),
            per_parameter=run.method.endswith("per byte"),
        )  # fmt: skip
        return self.bench.trained(run, at_ranks(self.bench.choices(run, RankSettings("fixed")), ranks))
