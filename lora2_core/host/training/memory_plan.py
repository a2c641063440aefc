"""Plans a run's memory before its first step: what it needs, and what is done so that it fits."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

from ...training.settings import TrainSettings
from .memory_trial import Trial

GIGABYTE = 1e9
Way = str  # of checkpointing: one of these, the fastest first
WAYS: tuple[Way, ...] = ("off", "on", "offload")
# bytes for each trained parameter: of itself, and of the optimizer's moments of it. One by dotted
# name counts as Adam does: what it keeps is known only once it has made a step
PARAMETER = 4
MOMENT_BYTES = {"adamw": 8, "adam": 8, "sgd": 4, "adafactor": 0, "prodigy": 16, "adamw8bit": 2}
# of what a step takes, for what a trial does not see: workspaces of kernels, tensors that live for
# one operation, and memory between tensors; the null GPU's peaks are within 3% without it
CUSHION, WORKSPACE = 0.05, 200_000_000
# share of the weights that must fit beside a run with the others in RAM: its largest layers are
# copied to the card one after the other
LEAST_WEIGHTS = 0.06
# share of the card that stays free where weights lie in RAM: copies of all sizes come and go there,
# and leave gaps between each other (Flux in bf16 on 16 GB: 0.9 GB)
GAPS = 0.07
# share of the card beside that, for weights that are fetched ahead (ahead.py)
AHEAD = 0.03
# below this share of an estimate a run does not fit, however wrong the estimate may be
SURE = 0.8


@dataclass(frozen=True)
class Need:
    """Says what a run needs on the card, in bytes. weights: of the frozen models. adapter: low-rank
    weights and the optimizer's moments. step: activations and gradients at their peak.
    """

    weights: int
    adapter: int
    step: int

    @property
    def beside(self) -> int:
        """Returns what the run needs beside the frozen weights."""
        return int(self.adapter + (1 + CUSHION) * self.step) + WORKSPACE

    @property
    def all(self) -> int:
        """Returns what the run needs with all weights on the card."""
        return self.weights + self.beside

    @property
    def least(self) -> int:
        """Returns what it needs with most weights in RAM."""
        return int(LEAST_WEIGHTS * self.weights) + self.beside


@dataclass(frozen=True)
class Plan:
    """Says what a run will do. available: bytes that the card can give it. offloaded: bytes of
    what checkpointed blocks get that lie in RAM meanwhile. start_rank: the rank that its layers
    begin with at most, None as the settings have it. overwrites: whether the model writes over
    values that its gradients need.
    """

    need: Need
    available: int
    checkpointing: bool
    offloaded: int = 0
    start_rank: int | None = None
    overwrites: bool = False

    @property
    def in_ram(self) -> int:
        """Returns the bytes of weights that stay in RAM."""
        short = self.need.all - self.available
        room = int((GAPS + AHEAD) * self.available)
        return min(self.need.weights, short + room) if short > 0 else 0

    @property
    def beside(self) -> int:
        """Returns the bytes that the host is to leave free beside the weights."""
        return self.need.beside + (int((GAPS + AHEAD) * self.available) if self.in_ram else 0)

    @property
    def ahead(self) -> int:
        """Returns the bytes of that which weights may take that are fetched ahead."""
        return int(AHEAD * self.available) if self.in_ram else 0

    @property
    def fits(self) -> bool:
        """Returns whether it needs no more than there is, with weights in RAM."""
        return self.need.least <= self.available

    @property
    def notes(self) -> list[list[str]]:
        """Returns sentences for the person who starts the run, each with what stands for {0} and
        {1} in it.
        """
        notes = [
            ["Needs about {0} of {1} GB of memory.", size(self.need.all), size(self.available)]
        ]
        if self.in_ram:
            notes.append(["{0} GB of the model's weights stay in RAM.", size(self.in_ram)])
        if self.checkpointing:
            notes.append(["Gradient checkpointing is on."])
        if self.offloaded:
            notes.append(["{0} GB of what its blocks get lie in RAM.", size(self.offloaded)])
        if self.start_rank is not None:
            notes.append(["Ranks begin at {0}, so that they fit.", str(self.start_rank)])
        return notes

    @property
    def measures(self) -> list[str]:
        """Returns the sentences that say what is done so that it fits."""
        return [sentence.format(*values) for sentence, *values in self.notes[1:]]

    @property
    def text(self) -> str:
        """Returns the notes as one text."""
        return " ".join(sentence.format(*values) for sentence, *values in self.notes)


@dataclass(frozen=True)
class Wanted:
    """Holds what decides a run's need. weights: bytes of the frozen models. parameters: of the
    adapter at the start, whose highest rank is `rank`. target: the least that it may begin with.
    trial: at that start. training: of the weights.
    """

    weights: int
    parameters: int
    rank: int
    target: int
    trial: Trial
    training: TrainSettings

    def need(self, way: Way) -> Need:
        """Returns what it needs."""
        kept = MOMENT_BYTES.get(self.training.optimizer, MOMENT_BYTES["adam"])
        moments = kept + (PARAMETER if self.training.ema else 0)
        adapter = int(self.parameters * (PARAMETER + moments))
        step = self.trial.peak(checkpointing=way != "off", offload=way == "offload")
        return Need(self.weights, adapter, step)

    def at_rank(self, rank: int) -> Wanted:
        """Returns the same run with another rank at the start."""
        share = rank / self.rank
        parameters = int(share * self.parameters)
        return replace(self, rank=rank, parameters=parameters, trial=self.trial.scaled(share))

    def with_activations(self, share: float) -> Wanted:
        """Returns the same run with fewer or smaller pictures."""
        return replace(self, trial=self.trial.with_activations(share))


def plan(run: Wanted, available: int, checkpointing: str, *, lower_start: bool) -> Plan:
    """Returns the plan of a run: the fastest way that fits. checkpointing: one of WAYS, or `auto`
    for what is needed. lower_start: whether it may begin with lower ranks. The plan may not fit.

    A slower way is taken where half the ranks at the start do not fit either. Weights stay in RAM
    only with checkpointing, where that is free to choose: it costs a third more time, and copies in
    every step cost more. What blocks get is less than the weights are.
    """
    ways = WAYS if checkpointing == "auto" else (checkpointing,)
    starts = [run.rank]
    if lower_start and run.rank > run.target:
        starts.append(max(run.target, run.rank // 2))
    for way in ways:
        for start in starts:
            made = planned_way(run, available, way, start)
            if not made.in_ram:
                return made
    # nothing is kept in RAM for nothing
    plans = {way: planned_way(run, available, way, starts[-1]) for way in ways}
    way = next((w for w in ways[1:] if plans[w].fits), min(ways, key=lambda w: plans[w].need.least))
    if lower_start and not plans[way].fits:
        return planned_way(run, available, way, highest(run, available, way))
    return plans[way]


def planned_way(run: Wanted, available: int, way: Way, start: int) -> Plan:
    """Returns the plan of a run with this choice of checkpointing and highest rank at the start."""
    offloaded = sum(block.inputs for block in run.trial.blocks) if way == "offload" else 0
    need = run.at_rank(start).need(way)
    lowered = start if start < run.rank else None
    return Plan(need, available, way != "off", offloaded, lowered, run.trial.overwrites)


def highest(run: Wanted, available: int, way: Way) -> int:
    """Returns the highest rank to begin with that fits, at least the target."""
    low, high = run.target, run.rank
    while low < high:
        middle = (low + high + 1) // 2
        fits = run.at_rank(middle).need(way).least <= available
        low, high = (middle, high) if fits else (low, middle - 1)
    return low


def remedies(run: Wanted, made: Plan, batch_size: int) -> Iterator[tuple[str, Need]]:
    """Yields what can be done about too little memory, the cheapest first, and what the run needs
    then.
    """
    way: Way = "offload" if made.offloaded else "on"
    if not made.checkpointing:
        yield "checkpointing on", run.need(way)
    elif not made.offloaded and run.need("offload").least < made.need.least:
        way = "offload"
        yield "checkpointing offload", run.need(way)
    if batch_size > 1:
        yield "batch_size 1", run.with_activations(1 / batch_size).need(way)
    if (half := run.target // 2) > 0:
        yield f"target_rank and start_rank {half}", run.at_rank(half).need(way)
    yield "pictures of 3/4 the width", run.with_activations(9 / 16).need(way)
    yield "pictures of half the width", run.with_activations(1 / 4).need(way)


def too_little(run: Wanted, made: Plan, batch_size: int) -> str:
    """Returns one sentence that says that a run does not fit, and the three cheapest remedies with
    what it needs then.
    """
    listed = [f"{name} ({size(need.least)} GB)" for name, need in remedies(run, made, batch_size)]
    return (
        f"This training needs {size(made.need.least)} GB of memory even with most weights in RAM, "
        f"and the card can give it {size(made.available)}. What it needs with "
        f"{', '.join(listed[:3])}."
    )


def size(count: float) -> str:
    """Returns bytes as GB with one digit."""
    return f"{count / GIGABYTE:.1f}"
