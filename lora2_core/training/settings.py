"""How weights are to be trained: frozen, validated at construction, one sentence for each fault."""

from __future__ import annotations

from dataclasses import dataclass, replace

from ..checks import check_choice, check_range
from ..ranks.modes import Fixed
from .schedule import SCHEDULES, shares

OPTIMIZERS = ("adamw", "adam", "sgd", "adafactor", "prodigy", "adamw8bit")

LARGEST_BETA = 0.99999
DECAY = 0.5  # of the run: the learning rate falls to zero over its last half
BETAS = {"beta1": 0.9, "beta2": 0.999}


@dataclass(frozen=True)
class TrainSettings:
    """How weights are trained: steps, learning rate of lora_up and lora_down, the seed of
    everything random, and decay, the last share of the run over which the learning rate falls to
    zero (None: half of it).

    weight_decay: counted in runs: without gradients, weights would shrink by e^-weight_decay from
        the first to the last step, whatever the steps, the learning rate and the optimizer (None:
        1.5; in paper mode, for adam, and where a run goes on from a finished adapter 0).
    optimizer: of the weights; the rates always have an Adam of their own.
    beta1, beta2: of Adam and its kin; beta1 is the momentum of sgd (None: 0.9, 0.999).
    max_norm: the gradient of all weights is cut to this norm; 0 for never.
    ema: 0, or the decay of a running mean of the weights, which takes their place when the run
        ends.
    schedule: late, constant, linear or cosine (None: late, in paper mode without a decay constant).
    warmup_steps: in which the learning rate rises first.
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

    def __post_init__(self) -> None:
        check_range("steps", self.steps, 1, 1_000_000, integer=True)
        check_range("learning_rate", self.learning_rate, 0, 10)
        check_range("seed", self.seed, 0, 2**64 - 1, integer=True)
        check_choice("optimizer", self.optimizer, OPTIMIZERS)
        check_range("max_norm", self.max_norm, 0, 1e6)
        check_range("ema", self.ema, 0, LARGEST_BETA)
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
        if self.optimizer == "adam" and self.weight_decay:
            raise ValueError(
                f"weight_decay is {self.weight_decay:g}, but adam has none: choose adamw, or leave "
                "weight_decay out."
            )

    def rates(self) -> list[float]:
        """Returns the learning rate of every step. Where no schedule is given it is `late`, which
        is every mode's own but the paper's.
        """
        decay = DECAY if self.decay is None else self.decay
        found = shares(self.schedule or "late", self.steps, self.warmup_steps, decay)
        return [self.learning_rate * share for share in found]

    def resolved(self, mode: Fixed, *, started: bool = False) -> TrainSettings:
        """Returns the settings with the mode's own values where none were given. What a finished
        adapter holds shall not fade: `started` runs, which go on from one, have no weight decay.
        """
        own = mode.defaults
        fades = self.optimizer != "adam" and not started
        given = {
            "schedule": own.schedule if self.decay is None else "late",
            "decay": DECAY,
            "weight_decay": own.weight_decay if fades else 0.0,
        } | BETAS
        return replace(self, **{k: v for k, v in given.items() if getattr(self, k) is None})
