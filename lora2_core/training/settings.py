"""Settings of how weights are trained: frozen, checked when made, one sentence for each fault."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

from ..checks import check_choice, check_range, check_text
from ..ranks.modes import Fixed
from .schedule import SCHEDULES, shares

OPTIMIZERS = ("adamw", "adam", "sgd", "adafactor", "prodigy", "adamw8bit")

# a running mean with this decay is one over 100,000 steps, more than a run has
LARGEST_BETA = 0.99999
# share of the run, at its end, over which the schedule `late` falls to zero (section F of
# docs/results.md: with a constant learning rate the loss on unseen pictures is 24.6% higher)
FALLING = 0.5
# more would leave next to nothing of a step
LARGEST_DROPOUT = 0.9
# of LoRA+; its authors try 2 to 256
RATIOS = (0.01, 1000.0)
# optimizers that have one learning rate for all weights
ONE_LEARNING_RATE = ("prodigy", "Prodigy")
# Adam's own
BETAS = {"beta1": 0.9, "beta2": 0.999}


@dataclass(frozen=True)
class TrainSettings:
    """How the weights, lora_up and lora_down, are trained.

    learning_rate: of the weights; the rates nu have their own in RankSettings.
    seed: of every random number of the run.
    decay: share of the run, at its end, over which the schedule `late` falls to zero; None: 0.5.
    weight_decay: of a complete run: without gradients, the weights would shrink by e^-weight_decay
        from the first to the last step, whatever the steps, the learning rate and the optimizer.
        None: 1.5; 0 in paper mode, for adam, and where a run goes on from a finished adapter.
    optimizer: of the weights; the rates nu always have an Adam of their own.
    beta1, beta2: of Adam and its relatives; beta1 is the momentum of sgd. None: 0.9 and 0.999.
    max_norm: the norm to which the gradient of all weights is cut; 0: never cut.
    ema: 0, or the decay of a running mean of the weights, which replaces them when the run ends.
    schedule: late, constant, linear or cosine. None: late; in paper mode constant, unless `decay`
        is given.
    warmup_steps: the first steps, in which the learning rate rises.
    optimizer_args: of an optimizer by dotted name (named_optimizers.py), which has no beta1, beta2
        and weight_decay of these settings.
    rank_dropout, module_dropout: the probability that a rank position, or a layer, is left out of a
        step.
    scale_weight_norms: the largest Frobenius norm of a layer's update; 0: no limit.
    loraplus_lr_ratio: how many times learning_rate lora_up has; lora_down has learning_rate itself
        (LoRA+, arXiv 2402.12354). 1: both are trained alike.
    """

    steps: int = 500
    learning_rate: float = 1e-4
    seed: int = 0
    decay: float | None = None
    weight_decay: float | None = None
    optimizer: str = "adamw"
    beta1: float | None = None
    beta2: float | None = None
    max_norm: float = 0.0
    ema: float = 0.0
    schedule: str | None = None
    warmup_steps: int = 0
    optimizer_args: str = ""
    rank_dropout: float = 0.0
    module_dropout: float = 0.0
    scale_weight_norms: float = 0.0
    loraplus_lr_ratio: float = 1.0

    def __post_init__(self) -> None:
        check_range("steps", self.steps, 1, 1_000_000, integer=True)
        check_range("learning_rate", self.learning_rate, 0, 10)
        check_range("seed", self.seed, 0, 2**64 - 1, integer=True)
        check_text("optimizer", self.optimizer)
        check_text("optimizer_args", self.optimizer_args)
        if "." not in self.optimizer:
            check_choice("optimizer", self.optimizer, OPTIMIZERS)
            if self.optimizer_args.strip():
                raise ValueError(
                    f"optimizer_args belong to an optimizer by dotted name, but optimizer is "
                    f"{self.optimizer}: leave them out, or write optimizer_name."
                )
        check_range("max_norm", self.max_norm, 0, 1e6)
        check_range("ema", self.ema, 0, LARGEST_BETA)
        check_range("rank_dropout", self.rank_dropout, 0, LARGEST_DROPOUT)
        check_range("module_dropout", self.module_dropout, 0, LARGEST_DROPOUT)
        check_range("scale_weight_norms", self.scale_weight_norms, 0, 1e6)
        check_range("loraplus_lr_ratio", self.loraplus_lr_ratio, *RATIOS)
        check_range("warmup_steps", self.warmup_steps, 0, 1_000_000, integer=True)
        if self.schedule is not None:
            check_choice("schedule", self.schedule, tuple(SCHEDULES))
        for name, most in (("decay", 1), ("weight_decay", 1e3)):
            if (value := getattr(self, name)) is not None:
                check_range(name, value, 0, most)
        for name in ("beta1", "beta2"):
            if (value := getattr(self, name)) is not None:
                check_range(name, value, 0, LARGEST_BETA)
        if self.warmup_steps > self.steps:
            raise ValueError(
                f"warmup_steps {self.warmup_steps} is more than the run's {self.steps} steps: "
                "lower warmup_steps or raise steps."
            )
        if self.loraplus_lr_ratio != 1 and self.optimizer.endswith(ONE_LEARNING_RATE):
            raise ValueError(
                f"loraplus_lr_ratio is {self.loraplus_lr_ratio:g}, but optimizer {self.optimizer} "
                "finds one learning rate for all weights: set the ratio to 1, or choose adamw."
            )
        if self.optimizer == "adam" and self.weight_decay:
            raise ValueError(
                f"weight_decay is {self.weight_decay:g}, but adam has none: choose adamw, or leave "
                "weight_decay out."
            )

    def rates(self) -> list[float]:
        """Returns the learning rate of every step. The schedule None counts as `late` here; paper
        mode's own is set by `resolved`.
        """
        falling = FALLING if self.decay is None else self.decay
        schedule = shares(self.schedule or "late", self.steps, self.warmup_steps, falling)
        return [self.learning_rate * share for share in schedule]

    def resolved(self, mode: Fixed, *, started: bool = False) -> TrainSettings:
        """Returns the settings with the mode's own values in place of None. A run that goes on from
        a finished adapter, `started`, has no weight decay, so that the adapter does not fade.
        """
        own = mode.defaults
        fades = self.optimizer != "adam" and not started
        defaults: dict[str, Any] = {
            "schedule": own.schedule if self.decay is None else "late",
            "decay": FALLING,
            "weight_decay": own.weight_decay if fades else 0.0,
        } | BETAS
        return replace(self, **{k: v for k, v in defaults.items() if getattr(self, k) is None})
