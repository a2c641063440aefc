"""Settings of how ranks are learned: frozen, checked when made, one sentence for each fault."""

from __future__ import annotations

from dataclasses import dataclass, replace

from ..checks import check_choice, check_range, check_text
from .layer_ranks import parse
from .modes import MODES, Fixed

INITS = ("matched", "paper")


@dataclass(frozen=True)
class RankSettings:
    """How ranks are learned.

    mode: `adaptive`, `paper` (arXiv 2603.21884 to the letter) or `fixed` (plain LoRA at
        target_rank).
    target_rank: adaptive: highest mean rank, weighted by layer size; paper: the rank that every
        layer is pulled to; fixed: the rank.
    budget_mb: 0, or a size in MB (1e6 bytes, 2 bytes a parameter) that replaces target_rank as the
        limit.
    start_rank: rank of every layer at the first step; None: target_rank, in adaptive mode three
        times the mean rank allowed, since layers then compete.
    max_rank: highest rank of a layer; min(in, out) of its shape limits it too.
    quantile: share k of all importance that lies inside the rank; None: the mode's own, 0.9 in
        paper mode, 0.3 in adaptive mode, where importance then falls gently.
    tolerance: adaptive: rank positions that are worth less to the loss than this share of a typical
        one are given back; None: only clear noise is given back.
    init: standard deviation of lora_down, `matched` or `paper`; None: the mode's own.
    rank_weight, attention_weight: lambda_rank and lambda_attn; None: the mode's own (1e-4 in paper
        mode; in adaptive mode 10 times the running loss, and 0).
    rate_learning_rate: learning rate of the rates nu; None: the mode's own.
    layer_ranks: lines of `pattern = rank`: layers whose names match have at most that rank, in
        fixed mode exactly that rank. In `pattern = rank target rank`, the second rank replaces
        target_rank in these layers.
    """

    mode: str = "adaptive"
    target_rank: int = 16
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
        check_choice("mode", self.mode, tuple(MODES))
        check_range("target_rank", self.target_rank, 1, 4096, integer=True)
        check_range("max_rank", self.max_rank, 1, 4096, integer=True)
        check_range("budget_mb", self.budget_mb, 0, 1e6)
        if self.quantile is None:
            object.__setattr__(self, "quantile", MODES[self.mode].defaults.quantile)
        check_range("quantile", self.quantile, 0.01, 0.9999)
        if self.tolerance is not None:
            check_range("tolerance", self.tolerance, 0, 1)
        if self.max_rank < self.target_rank:
            raise ValueError(
                f"max_rank {self.max_rank} is below target_rank {self.target_rank}: "
                "raise max_rank or lower target_rank."
            )
        if self.start_rank is not None:
            check_range("start_rank", self.start_rank, 1, self.max_rank, integer=True)
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

    @property
    def rules(self) -> Fixed:
        """Returns the object that holds what the mode means."""
        return MODES[self.mode]

    def resolved(self) -> RankSettings:
        """Returns the settings with the mode's own values in place of None. rate_learning_rate
        alone stays None: it depends on the run's length.
        """
        own = self.rules.defaults
        return replace(
            self,
            init=self.init or own.init,
            rank_weight=own.rank_weight if self.rank_weight is None else self.rank_weight,
            attention_weight=(
                own.attention_weight if self.attention_weight is None else self.attention_weight
            ),
        )

    def first_rank(self, mean: float, own: int | None = None) -> int:
        """Returns the rank that a layer starts with.

        mean: the highest mean rank allowed. own: the layer's own target rank, or None.
        """
        return self.rules.first_rank(self.target_rank, own, self.start_rank, mean, self.max_rank)
