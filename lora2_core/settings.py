"""What a run is asked to do: frozen, validated at construction, one sentence for each fault."""

from __future__ import annotations

from dataclasses import dataclass

from .layer_ranks import parse
from .places import quoted
from .schedule import SCHEDULES, shares

MODES = ("adaptive", "paper", "fixed")
INITS = ("matched", "paper")
OPTIMIZERS = ("adamw", "adam", "sgd", "adafactor", "prodigy", "adamw8bit")
BYTES_PER_PARAMETER = 2  # an exported adapter is fp16 or bf16 unless asked otherwise
MEGABYTE = 1e6
FIRST_SHARE = 3  # adaptive runs start at so many times the target and descend to it
LARGEST_BETA = 0.99999
DECAY = 0.5  # of the run: the learning rate falls to zero over its last half
QUANTILES = {"adaptive": 0.3, "paper": 0.9, "fixed": 0.9}


def check_range(name: str, value: float, low: float, high: float, *, whole: bool = False) -> None:
    """ValueError unless value is a number (an int where `whole`) and low <= value <= high."""
    number = isinstance(value, int if whole else (int, float)) and not isinstance(value, bool)
    if not number or not low <= value <= high:
        kind = "whole number" if whole else "number"
        raise ValueError(f"{name} is {quoted(value)}: give a {kind} from {low:g} to {high:g}.")


def check_choice(name: str, value: str, choices: tuple[str, ...]) -> None:
    """ValueError unless value is one of the choices."""
    if not isinstance(value, str) or value not in choices:
        raise ValueError(f"{name} is {quoted(value)}: choose {', '.join(choices)}.")


def check_text(name: str, value: str) -> None:
    """ValueError unless value is a text."""
    if not isinstance(value, str):
        raise ValueError(f"{name} is {quoted(value)}: give a text.")


@dataclass(frozen=True)
class RankSettings:
    """How ranks are learned.

    mode: `adaptive`, `paper` (arXiv 2603.21884 to the letter) or `fixed` (plain LoRA at
        target_rank).
    target_rank: adaptive: ceiling on the mean rank, weighted by layer size; paper: pulls rates to
        this rank; fixed: the rank.
    budget_mb: 0, or the size in MB (1e6 bytes, 2 bytes a parameter) that replaces target_rank as
        ceiling.
    start_rank: rank of every layer at the first step; None means target_rank, in adaptive mode
        three times the mean rank allowed (layers then compete for what is left; none grows).
    max_rank: capacity of every layer, cut to min(in, out) of its shape.
    quantile: share k of all importance that lies inside the rank; None means the mode's own: 0.9 in
        the paper, 0.3 in adaptive mode, where importance then falls gently.
    tolerance: adaptive: rank positions worth less to the loss than this share of a typical one are
        given back; None gives back only what is clearly noise.
    init: standard deviation of lora_down, `matched` or `paper`; None means the mode's own.
    rank_weight, attention_weight: lambda_rank and lambda_attn; None means the mode's own (1e-4 in
        paper mode; the running loss in adaptive mode, which leaves attention out).
    rate_learning_rate: learning rate of the rates; None means the mode's own.
    layer_ranks: lines of `pattern = rank`: layers whose names match have at most that rank, in
        fixed mode exactly that. With `target` and a second rank after it, that takes the place of
        target_rank in these layers.
    """

    mode: str = "adaptive"
    target_rank: int = 64
    budget_mb: float = 0.0
    start_rank: int | None = None
    max_rank: int = 256
    quantile: float | None = None
    tolerance: float | None = None
    init: str | None = None
    rank_weight: float | None = None
    attention_weight: float | None = None
    rate_learning_rate: float | None = None
    layer_ranks: str = ""

    def __post_init__(self) -> None:
        check_choice("mode", self.mode, MODES)
        check_range("target_rank", self.target_rank, 1, 4096, whole=True)
        check_range("max_rank", self.max_rank, 1, 4096, whole=True)
        check_range("budget_mb", self.budget_mb, 0, 1e6)
        if self.quantile is None:
            object.__setattr__(self, "quantile", QUANTILES[self.mode])
        check_range("quantile", self.quantile, 0.01, 0.9999)
        if self.tolerance is not None:
            check_range("tolerance", self.tolerance, 0, 1)
        if self.max_rank < self.target_rank:
            raise ValueError(
                f"max_rank {self.max_rank} is below target_rank {self.target_rank}: "
                "raise max_rank or lower target_rank."
            )
        if self.start_rank is not None:
            check_range("start_rank", self.start_rank, 1, self.max_rank, whole=True)
        if self.init is not None:
            check_choice("init", self.init, INITS)
        for name in ("rank_weight", "attention_weight", "rate_learning_rate"):
            if (value := getattr(self, name)) is not None:
                check_range(name, value, 0, 1e3)
        check_text("layer_ranks", self.layer_ranks)
        for line in parse(self.layer_ranks):
            if line.most > self.max_rank:
                raise ValueError(
                    f"layer_ranks gives rank {line.most} to {line.pattern!r}, above max_rank "
                    f"{self.max_rank}: raise max_rank or lower the rank."
                )
            if line.target is not None and self.budget_mb > 0:
                raise ValueError(
                    f"layer_ranks gives a target to {line.pattern!r}, but budget_mb "
                    f"{self.budget_mb:g} takes the place of targets: set it to 0, or leave out "
                    "the target."
                )

    def first_rank(self, ceiling: float, target: int | None = None) -> int:
        """The rank that a layer starts with; `ceiling` is the highest mean rank allowed, `target`
        the layer's own target rank.
        """
        if self.mode == "fixed" and target is not None:
            return target
        if self.start_rank is not None:
            return self.start_rank
        if self.mode == "adaptive":
            share = ceiling if target is None else target
            return min(self.max_rank, max(1, round(FIRST_SHARE * share)))
        return self.target_rank if target is None else target


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
        check_range("steps", self.steps, 1, 1_000_000, whole=True)
        check_range("learning_rate", self.learning_rate, 0, 10)
        check_range("seed", self.seed, 0, 2**64 - 1, whole=True)
        check_choice("optimizer", self.optimizer, OPTIMIZERS)
        check_range("max_norm", self.max_norm, 0, 1e6)
        check_range("ema", self.ema, 0, LARGEST_BETA)
        check_range("warmup_steps", self.warmup_steps, 0, 1_000_000, whole=True)
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
