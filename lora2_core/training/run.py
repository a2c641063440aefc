"""The training loop: one generator, no user interface; the caller sees a Step after each update."""

from __future__ import annotations

import gc
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TypeAlias

import torch
from torch import Tensor

from ..layers.adapters import Adapters
from ..units import megabytes
from .accumulation import Part, accumulate
from .attention import EntropyRecord
from .auction import PRICES
from .first_gradients import FirstGradients, nothing_learns
from .groups import groups_of, parameters_of
from .loss_scale import LossScale
from .optimizers import TwoOptimizers, check_optimizer
from .parallel import Processes
from .regularisers import Dropout, cap_norms
from .settings import TrainSettings

# optimizers whose learning rate means the same as Adam's
ADAMS = ("adamw", "adam", "adamw8bit")
# steps in a row that are not finite before the run ends; an overflow of fp16 does not count while
# the loss scale can still be halved
PATIENCE = 5


LossFunction: TypeAlias = "Callable[[torch.Generator], Tensor | Sequence[Part]]"


class TrainingDiverged(RuntimeError):
    """Says that loss or gradients stayed NaN or infinite. The adapter has the values of the last
    good step.
    """


@dataclass(frozen=True)
class Step:
    """The result of one step.

    index: from 1. loss: L_rec. ranks, mean_rank, megabytes: of the adapter after the step. ceiling:
    the most MB that the settings allow; None: no limit. without_gradient: the layers that had none
    in the first steps, said once.
    """

    index: int
    loss: float
    ranks: Mapping[str, int]
    mean_rank: float
    megabytes: float
    ceiling: float | None = None
    without_gradient: tuple[str, ...] = ()


@contextmanager
def collected_later() -> Iterator[None]:
    """Lets Python look for circles of objects after a pass, not while there is a graph of thousands
    of objects that are all in use: it would go through them again and again.
    """
    was_on = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_on:
            gc.enable()


def make_optimizer(adapters: Adapters, settings: TrainSettings) -> TwoOptimizers:
    """Returns the optimizer of the settings for all lora_up and lora_down, with an Adam for the
    rates nu.
    """
    mode = adapters.mode
    check_optimizer(settings.optimizer, settings.optimizer_args)
    named, speeds = parameters_of(adapters), groups_of(adapters, settings.loraplus_lr_ratio)
    groups = [({n: named[n] for n in names}, speed) for speed, names in speeds.items()]
    rates = (
        (adapters.rate_parameter, rate_learning_rate(adapters, settings)) if mode.moves else None
    )
    return TwoOptimizers(groups, rates, settings, adapters.paths, squares=mode.competes)


def rate_learning_rate(adapters: Adapters, settings: TrainSettings) -> float:
    """Returns the learning rate of the rates nu: the one of the settings, else the mode's own. The
    mode gets the learning rate of the weights only if the optimizer is one of ADAMS.
    """
    if (own := adapters.settings.rate_learning_rate) is not None:
        return own
    of_adam = settings if settings.optimizer in ADAMS else TrainSettings
    return adapters.mode.rate_learning_rate(of_adam.learning_rate, settings.steps)


class Run:
    """A training run: everything that its next step depends on, which run_state.py saves and
    restores.

    losses, mean_ranks: of the steps so far. bad_steps: steps in a row that were not finite.
    between_steps: False inside an update, while some parts are updated and others are not.
    observed: what observers of the run must find again when it goes on, by their names.
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
        both = self.settings.rank_dropout, self.settings.module_dropout
        self.dropout = Dropout(*both, self.generator)
        self.random = self.generator.get_state()  # as it was before the step that is computed
        self.scale, self.bad_steps = LossScale(half), 0
        self.first_gradients = FirstGradients(adapters)
        self.losses: list[float] = []
        self.mean_ranks: list[float] = []
        self.between_steps = True
        self.observed: dict[str, dict] = {}

    def steps(
        self,
        loss_fn: LossFunction,
        attention: EntropyRecord | None = None,
    ) -> Iterator[Step]:
        """Trains and yields a Step after each step that is left; arguments as in `train`."""
        adapters, optimizer, price, scale = self.adapters, self.optimizer, self.price, self.scale
        # undoes what an interrupted step left behind
        optimizer.zero_grad()
        self.generator.set_state(self.random)
        for learning_rate in self.settings.rates()[len(self.losses) :]:
            optimizer.set_learning_rate(learning_rate)
            with adapters.paths.without_autograd(), collected_later():
                value, finite_loss, finite_norm = self.passed(loss_fn, attention)
            good = finite_loss and finite_norm
            resting: tuple[str, ...] = ()
            if good and not self.dropout.used:  # which gives layers no gradient now and then
                last = len(self.losses) + 1 == self.settings.steps
                resting = self.first_gradients.look(value, last=last)
            self.between_steps = False
            if good:
                optimizer.step()
            optimizer.zero_grad()  # makes room for a review and the next forward pass
            if good:
                self.bad_steps = 0
                scale.step_was_good()
                price.review(optimizer, value)
                adapters.follow_rates(optimizer)
                if self.settings.scale_weight_norms > 0:
                    cap_norms(adapters, self.settings.scale_weight_norms)
            elif not (finite_loss and scale.overflowed()):
                self.bad_steps += 1
            yield self._ended(value, resting)

    def passed(
        self, loss_fn: LossFunction, attention: EntropyRecord | None
    ) -> tuple[float, bool, bool]:
        """Computes the gradients of a step. Returns its loss L_rec, and whether all that it
        minimises and the gradients are finite. Nothing of the step's graph is left.
        """
        mean_loss, total_loss = self.computed(loss_fn, attention)
        if self.processes is not None:
            total_loss = self.processes.mean(total_loss)
            self.processes.average(self.optimizer.gradients())
        norm = torch.nn.utils.get_total_norm(self.optimizer.gradients())
        checks = torch.stack([t.detach().float() for t in (mean_loss, total_loss, norm)])
        value, *checked = checks.tolist()  # waits for the device, once a step
        finite_loss, finite_norm = map(math.isfinite, checked)
        return value, finite_loss, finite_norm

    def computed(
        self, loss_fn: LossFunction, attention: EntropyRecord | None
    ) -> tuple[Tensor, Tensor]:
        """Computes the gradients of a step. Returns its loss L_rec and all that it minimises."""
        weight = self.adapters.settings.attention_weight
        self.refresh()
        if attention is not None:
            attention.start()
        parts, share = loss_fn(self.generator), 1.0
        if isinstance(parts, Tensor):
            loss = parts
        else:
            loss, share = accumulate(parts, self.scale, self.refresh, attention, weight)
        mean_loss = loss if self.processes is None else self.processes.mean(loss)
        total_loss = loss + self.price.penalty(mean_loss)
        if attention is not None:
            total_loss = total_loss + share * weight * attention.take()
        if not total_loss.requires_grad:
            raise nothing_learns()
        self.scale.backward(total_loss, self.optimizer.gradients)
        self.adapters.paths.forget()  # makes room for the optimizer
        return mean_loss, total_loss

    def refresh(self) -> None:
        """Computes the diagonals of Lambda for the next pass, with dropout if there is any."""
        self.adapters.refresh(self.dropout if self.dropout.used else None)

    def _ended(self, loss: float, resting: tuple[str, ...]) -> Step:
        """Ends a step: records its loss and ranks, and returns them. Raises TrainingDiverged after
        PATIENCE bad steps in a row.
        """
        ranks = self.adapters.ranks
        mean_rank = self.adapters.parameters / self.adapters.cost
        diverged = self.bad_steps >= PATIENCE
        if not diverged:
            self.losses.append(loss)
            self.mean_ranks.append(mean_rank)
        self.random, self.between_steps = self.generator.get_state(), True
        if diverged:
            # if the run is continued, other pictures are drawn, and it gets another try
            self.bad_steps = 0
            raise TrainingDiverged(
                f"The loss was not a finite number for {PATIENCE} steps in a row "
                f"(step {len(self.losses) + 1}): "
                "lower learning_rate, or check the latents."
            )
        size, limit = megabytes(self.adapters.parameters), self.megabytes_allowed
        return Step(len(self.losses), loss, ranks, mean_rank, size, limit, resting)

    @property
    def megabytes_allowed(self) -> float | None:
        """Returns the most MB that the settings allow; None where they set no limit."""
        if not self.adapters.mode.limited:
            return None
        return megabytes(self.adapters.ceiling)


def train(
    adapters: Adapters,
    loss_fn: LossFunction,
    settings: TrainSettings | None = None,
    *,
    attention: EntropyRecord | None = None,
    half: bool = False,
    processes: Processes | None = None,
) -> Iterator[Step]:
    """Trains attached adapters and yields a Step after each step: `for step in train(...)`. The
    loop may be left early; the adapters keep what they have learned.

    loss_fn: given a seeded generator on the CPU, computes L_rec of one batch, a scalar, or returns
        the parts of a step, whose gradients are added up. All its random numbers must come from
        that generator; the global generators are not used.
    attention: records the model's cross-attention calls, for L_attn.
    half: the frozen model computes in fp16, so the loss is scaled.
    processes: the processes that train together (parallel.py). loss_fn then computes the loss of
        this process's share of the batch.

    A step whose loss or gradients are not finite changes nothing; after 5 in a row TrainingDiverged
    is raised. With settings.ema the weights become their running means when the generator ends or
    is closed.
    """
    run = Run(adapters, settings, half=half, processes=processes)
    try:
        yield from run.steps(loss_fn, attention)
    finally:
        run.optimizer.take_means()
