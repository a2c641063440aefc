"""The training loop: one generator, no user interface; the caller sees a Step after each update."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from ..layers.adapters import Adapters
from ..units import BYTES_PER_PARAMETER, MEGABYTE
from .attention import EntropyRecord
from .auction import PRICES
from .loss_scale import LossScale
from .optimizers import TwoOptimizers, check_optimizer
from .parallel import Processes
from .settings import TrainSettings

ADAMS = ("adamw", "adam", "adamw8bit")  # optimizers whose learning rate means what Adam's does
PATIENCE = 5  # non-finite steps in a row before the run is given up


class TrainingDiverged(RuntimeError):
    """Loss or gradients stayed NaN or infinite; the adapter holds the values of the last good
    step.
    """


@dataclass(frozen=True)
class Step:
    """What one step did: index from 1, the loss L_rec, the ranks after it, their mean, the size in
    MB, and the most MB that the settings allow (None: no limit).
    """

    index: int
    loss: float
    ranks: dict[str, int]
    mean_rank: float
    megabytes: float
    ceiling: float | None = None


def make_optimizer(adapters: Adapters, settings: TrainSettings) -> TwoOptimizers:
    """Returns the chosen optimizer over all lora_up and lora_down, with Adam over the rates."""
    mode = adapters.mode
    check_optimizer(settings.optimizer, mode)
    parts = [([adapters.components[n] for n in ns], s) for s, ns in adapters.by_speed().items()]
    groups = [([p for c in cs for p in (c.lora_up, c.lora_down)], speed) for cs, speed in parts]
    rates = (
        (adapters.rate_parameter, rate_learning_rate(adapters, settings)) if mode.moves else None
    )
    return TwoOptimizers(groups, rates, settings, squares=mode.competes)


def rate_learning_rate(adapters: Adapters, settings: TrainSettings) -> float:
    """Returns the learning rate of the rates: the one asked for, else the mode's own. That of the
    weights only counts where it means what it means to Adam.
    """
    if (asked := adapters.settings.rate_learning_rate) is not None:
        return asked
    of_adam = settings if settings.optimizer in ADAMS else TrainSettings
    return adapters.mode.rate_learning_rate(of_adam.learning_rate, settings.steps)


class Run:
    """A training between two steps: everything that the next step depends on.

    run_state.py takes it apart and puts it together again. `losses` and `mean_ranks` are those of
    the steps so far. `whole` is False inside an update, where the parts don't belong together.
    """

    def __init__(
        self,
        adapters: Adapters,
        settings: TrainSettings | None = None,
        *,
        half: bool = False,
        processes: Processes | None = None,
    ):
        self.adapters, self.processes = adapters, processes
        mode = adapters.mode
        self.settings = (settings or TrainSettings()).resolved(mode, started=adapters.started)
        self.optimizer = make_optimizer(adapters, self.settings)
        self.price = PRICES[mode.name](adapters, self.settings.steps)
        self.generator = torch.Generator().manual_seed(self.settings.seed)
        self.random = self.generator.get_state()  # before the step that is being computed
        self.scale, self.bad = LossScale(half), 0
        self.losses: list[float] = []
        self.mean_ranks: list[float] = []
        self.whole = True

    def steps(
        self,
        loss_fn: Callable[[torch.Generator], Tensor],
        attention: EntropyRecord | None = None,
    ) -> Iterator[Step]:
        """Yields the steps that are left; see `train`."""
        adapters, optimizer, price, scale = self.adapters, self.optimizer, self.price, self.scale
        attention_weight = adapters.settings.attention_weight
        # what a step that was broken off left
        optimizer.zero_grad()
        self.generator.set_state(self.random)
        for rate in self.settings.rates()[len(self.losses) :]:
            optimizer.set_rate(rate)
            adapters.refresh()
            if attention is not None:
                attention.start()
            loss = loss_fn(self.generator)
            told = loss if self.processes is None else self.processes.mean(loss)
            total = loss + price.penalty(told)
            if attention is not None:
                total = total + attention_weight * attention.take()
            parameters = [p for group in optimizer.param_groups for p in group["params"]]
            scale.backward(total, parameters)
            if self.processes is not None:
                total = self.processes.mean(total)
                self.processes.average([p.grad for p in parameters if p.grad is not None])
            norm = torch.nn.utils.get_total_norm([p.grad for p in parameters if p.grad is not None])
            checks = torch.stack([t.detach().float() for t in (told, total, norm)])
            value, whole, length = checks.tolist()  # one device sync
            self.whole, good = False, math.isfinite(whole) and math.isfinite(length)
            if good:
                optimizer.step()
            optimizer.zero_grad()  # makes room for a review and the next forward pass
            if good:
                self.bad = 0
                scale.step_was_good()
                price.review(optimizer, value)
                adapters.follow_rates(optimizer)
            elif not (math.isfinite(whole) and scale.overflowed()):
                self.bad += 1
            yield self._ended(value)

    def _ended(self, loss: float) -> Step:
        """Writes down what the step did; TrainingDiverged after the last bad one in a row."""
        ranks = self.adapters.ranks
        mean_rank = sum(ranks.values()) / len(ranks)
        diverged = self.bad >= PATIENCE
        if not diverged:
            self.losses.append(loss)
            self.mean_ranks.append(mean_rank)
        self.random, self.whole = self.generator.get_state(), True
        if diverged:
            self.bad = 0  # a run that is taken up again draws other pictures and gets another try
            raise TrainingDiverged(
                f"The loss was not a finite number for {PATIENCE} steps in a row "
                f"(step {len(self.losses) + 1}): "
                "lower learning_rate, or check the latents."
            )
        size = self.adapters.parameters * BYTES_PER_PARAMETER / MEGABYTE
        return Step(len(self.losses), loss, ranks, mean_rank, size, self.megabytes_allowed)

    @property
    def megabytes_allowed(self) -> float | None:
        """Returns the most MB that the settings allow, None where they set no limit."""
        if not self.adapters.mode.limited:
            return None
        return self.adapters.ceiling * BYTES_PER_PARAMETER / MEGABYTE


def train(
    adapters: Adapters,
    loss_fn: Callable[[torch.Generator], Tensor],
    settings: TrainSettings | None = None,
    *,
    attention: EntropyRecord | None = None,
    half: bool = False,
    processes: Processes | None = None,
) -> Iterator[Step]:
    """Trains attached adapters: `for step in train(...)`; leaving the loop early keeps what was
    learned.

    loss_fn(generator) -> scalar Tensor is L_rec of one batch; everything random in it must come
    from the generator (CPU, seeded), the global generators are not touched. `attention`: where the
    model's cross-attention calls are recorded, for L_attn. A step with a non-finite loss or
    gradient changes nothing; after 5 in a row TrainingDiverged is raised. `half`: the frozen model
    computes in fp16, so the loss is scaled. `processes`: those that train together (parallel.py);
    loss_fn then is the loss of this one's share of the batch. With settings.ema the weights become
    their running means when the generator ends or is closed.
    """
    run = Run(adapters, settings, half=half, processes=processes)
    try:
        yield from run.steps(loss_fn, attention)
    finally:
        run.optimizer.take_means()
