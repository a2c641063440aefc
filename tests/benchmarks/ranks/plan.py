"""What is asked for: subjects, seeds, steps; and the runs of every experiment in their order."""

from __future__ import annotations

from dataclasses import dataclass

from tests.benchmarks.ranks.pictures import STYLE_SETS, TEST
from tests.benchmarks.ranks.runs import ATTENTION, FLOW, PLAYGROUND, Cut, Run
from tests.benchmarks.ranks.tuning import (
    CLASSES,
    FLOW_CLASSES,
    PLAIN_RANKS,
    WIDE,
    WIDE_CLASSES,
    Class,
    tuned,
)

STEPS = {PLAYGROUND: 200, FLOW: 80}  # of a run
OWN = {PLAYGROUND: 64, FLOW: 16}  # of the base's own pictures, measured after a run

# method, rank and share of its bytes, where all layers are trained
WIDE_SIZES = (
    ("adaptive", 1, 0.5),
    *((c.method, c.rank, 1.0) for c in sorted(WIDE_CLASSES, key=lambda c: c.rank)),
)
RESIZES = ("sv_fro", "sv_ratio", "uniform")
RESIZE_RANKS = PLAIN_RANKS[:-1]
RESIZED_FROM = PLAIN_RANKS[-1]
TRUNCATED_FROM = 16
# share of the bytes of TRUNCATED_FROM -> (target rank, share of its bytes) trained at that size
TRUNCATIONS = {0.5: (8, 1.0), 0.25: (4, 1.0), 0.1: (2, 0.8)}
STYLE_RANK, STYLE_SEEDS = 8, 2


def cuts_of(method: str, rank: int) -> tuple[Cut, ...]:
    """What is cut from the adapter of a method at a rank."""
    if (method, rank) == ("fixed", RESIZED_FROM):
        return tuple((way, float(size)) for way in RESIZES for size in RESIZE_RANKS)
    if (method, rank) == ("adaptive", TRUNCATED_FROM):
        return tuple(("truncated", share) for share in TRUNCATIONS)
    return ()


@dataclass(frozen=True)
class Plan:
    """How much is run, and on which base; `quick` is two subjects, and few of the base's own
    pictures.
    """

    steps: int
    seeds: int
    quick: bool = False
    base_model: str = PLAYGROUND

    @property
    def subjects(self) -> tuple[str, ...]:
        return TEST[:2] if self.quick else TEST

    @property
    def pairs(self) -> list[tuple[str, int]]:
        """(subject, seed), one seed after the other."""
        return [(subject, seed) for seed in range(self.seeds) for subject in self.subjects]

    def run(self, pair: tuple[str, int], method: str, rank: int = 0, share: float = 1.0) -> Run:
        """A run without its learning rate."""
        subject, seed = pair
        steps, own = self.steps, 8 if self.quick else OWN[self.base_model]
        cuts, samples = (), False
        if self.base_model == PLAYGROUND:
            cuts = cuts_of(method, rank) if share == 1 else ()
            samples = seed == 0 and not (self.quick and subject != self.subjects[0])
        return Run(
            subject, method, rank, 0.0, seed, steps, share, own, samples, cuts, ATTENTION,
            self.base_model,
        )  # fmt: skip

    def base(self, subject: str) -> Run:
        return self.run((subject, 0), "base")

    @property
    def classes(self) -> tuple[Class, ...]:
        """Returns what is trained on attention alone."""
        if self.base_model == FLOW:
            return tuple(c for c in FLOW_CLASSES if c.layers == ATTENTION)
        return CLASSES

    @property
    def wide_sizes(self) -> tuple[tuple[str, int, float], ...]:
        """Returns methods, ranks and shares of their bytes where all layers are trained."""
        if self.base_model == FLOW:
            return tuple((c.method, c.rank, 1.0) for c in FLOW_CLASSES if c.layers == WIDE)
        return WIDE_SIZES

    def quality(self, rates: dict) -> list[Run]:
        """Experiment B, of the second base its part of H: everything of a subject and seed, then
        the next subject, then the next seed.
        """
        runs = []
        for pair in self.pairs:
            runs += [self.base(pair[0])] if pair[1] == 0 else []
            runs += [tuned(self.run(pair, c.method, c.rank), rates) for c in self.classes]
        return runs

    def truncation(self, rates: dict) -> list[Run]:
        """Experiment C; most of it is part of B."""
        sizes = [(TRUNCATED_FROM, 1.0), *TRUNCATIONS.values()]
        runs = []
        for pair in self.pairs:
            runs += [self.base(pair[0])] if pair[1] == 0 else []
            runs += [tuned(self.run(pair, "adaptive", *size), rates) for size in sizes]
        return runs

    def styles(self, rates: dict) -> list[Run]:
        """Experiment E."""
        return [
            tuned(Run(name, "adaptive", STYLE_RANK, seed=seed, steps=self.steps, own=0), rates)
            for seed in range(STYLE_SEEDS)
            for name in STYLE_SETS
        ]
