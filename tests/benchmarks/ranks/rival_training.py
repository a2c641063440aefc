"""How each of rivals.METHODS is trained, in the host."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import replace
from functools import cache

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
    """Returns the choices as plain LoRA of these ranks; layers of rank 0 are left out."""
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
            return self.bench.trained(run, self.plain(run, rivals.FULL_RANK))
        if run.method in rivals.OTHER_KINDS:
            return self.other_kind(run)
        return self.by_spectrum(run)

    def plain(self, run: Run, rank: int = 1) -> Choices:
        return self.bench.choices(run, RankSettings("fixed", rank))

    def recovered(self, run: Run) -> RankedLora:
        steps = round(run.steps * rivals.SPLITS[run.method])
        first = replace(run, steps=steps, rate=rivals.FIRST_RATE)
        whole = self.bench.trained(run, self.plain(first, rivals.FULL_RANK))
        cut = compress(whole, budget_mb=megabytes(self.bench.parameters(run)), tolerance=0)
        rest = replace(run, steps=run.steps - steps, seed=run.seed + ANOTHER_SEED)
        start = StartSettings(cut, adopt_layers=False)
        return self.bench.trained(run, replace(at_ranks(self.plain(rest), cut.ranks), start=start))

    def _setting(self, kind: str, layers: str, parameters: float) -> other_kinds.Setting:
        return other_kinds.setting_for(kind, self.bench.layers(layers), parameters)

    def other_kind(self, run: Run) -> RankedLora:
        choices = self.plain(run)
        if rivals.OTHER_KINDS[run.method]:
            bare = replace(choices.training, schedule="constant", weight_decay=0.0)
            choices = replace(choices, training=bare)
        kind = run.method.removesuffix(rivals.BARE)
        setting = self.setting(kind, run.layers, self.bench.parameters(run))
        pictures = self.bench.sets(run.pictures)["train"]
        return other_kinds.train(self.bench.model, pictures, choices, kind, setting)

    def by_spectrum(self, run: Run) -> RankedLora:
        layers, pictures = self.bench.layers(run.layers), self.bench.sets(run.pictures)["train"]
        if run.method == "weights":
            spectrum = spectra.of_weights(layers)
        else:
            spectrum = spectra.of_inputs(self.bench.model, layers, pictures)
        per_byte = run.method.endswith("per byte")
        parameters = self.bench.parameters(run)
        ranks = spectra.ranks_by(spectrum, layers, parameters, per_parameter=per_byte)
        return self.bench.trained(run, at_ranks(self.plain(run), ranks))
