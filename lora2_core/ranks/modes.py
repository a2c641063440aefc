"""What the modes of learning ranks mean: one small object each, and their defaults in one table.

Everything that differs between the modes is here; what a rank costs while it is learned, also by
mode, is in training/auction.py.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from .rank import (
    importance,
    matched_std,
    nearest_rank,
    paper_std,
    plain_std,
    rank_of,
    stable_weights,
)

FIRST_SHARE = 3  # adaptive runs start at so many times the target rank and descend to it
RATE_TRAVEL = 15.0  # adaptive: how far a log-rate can go in a run, in units of the logarithm
SMALLEST_RATE = 1e-4  # paper: rank 23,026 at quantile 0.9, beyond every capacity
PAPER_WEIGHT = 1e-4  # lambda_rank and lambda_attn where the paper leaves them unsaid
AUCTION_WEIGHT = 10.0  # lambda_rank of adaptive mode, times the running loss


@dataclass(frozen=True)
class Defaults:
    """The values of a mode where none are given.

    quantile, init, rank_weight, attention_weight: as in RankSettings. schedule, weight_decay (over
    a run): as in TrainSettings.
    """

    quantile: float
    init: str
    rank_weight: float
    attention_weight: float
    schedule: str
    weight_decay: float


class Fixed:
    """Plain LoRA: every layer keeps the rank that it is given, and Lambda is 1."""

    name: ClassVar[str] = "fixed"
    defaults: ClassVar[Defaults] = Defaults(
        quantile=0.9, init="matched", rank_weight=0.0, attention_weight=0.0,
        schedule="late", weight_decay=1.5,
    )  # fmt: skip
    moves: ClassVar[bool] = False  # ranks follow rates
    competes: ClassVar[bool] = False  # layers compete for rank under one size
    limited: ClassVar[bool] = True  # a run can't end larger than the settings allow
    random_growth: ClassVar[bool] = False  # new positions get a random lora_up too

    def first_rank(
        self, target: int, own: int | None, start: int | None, mean: float, most: int
    ) -> int:
        """Returns the rank that a layer starts with.

        target: the target rank of all layers; own: this layer's own target rank, or None; start:
        the start rank that was asked for, or None; mean: the highest mean rank allowed; most:
        the highest rank allowed.
        """
        if own is not None:
            return own
        return target if start is None else start

    def parameter_of(self, rates: Tensor) -> Tensor:
        """Returns what is trained in place of the rates nu, (layers,)."""
        return rates

    def rates_of(self, parameter: Tensor) -> Tensor:
        """Returns nu, (layers,): the inverse of `parameter_of`, differentiable."""
        return parameter

    def keep_valid(self, parameter: Tensor) -> None:
        """Moves rates that left their range back into it, in place."""

    def ranks_of(self, rates: Tensor, quantile: float, max_ranks: Tensor) -> Tensor:
        """Returns the rank of every layer, int64 (layers,)."""
        return rank_of(rates, quantile, max_ranks)

    def weights(
        self, rates: Tensor, ranks: Tensor, mean_rank: float | Tensor, length: int
    ) -> Tensor:
        """Returns the diagonals of Lambda before they are cut at the rank, (layers, length)."""
        return torch.ones(len(ranks), length, device=ranks.device)

    def std(self, init: str, weights: Tensor, fan_in: int) -> float:
        """Returns the standard deviation of a fresh lora_down of a layer with these weights."""
        return paper_std(weights) if init == "paper" else matched_std(weights, fan_in)

    def rate_learning_rate(self, learning_rate: float, steps: int) -> float:
        """Returns the learning rate of the rates of a run with this learning rate of the
        weights.
        """
        return learning_rate


class Paper(Fixed):
    """arXiv 2603.21884 to the letter: raw rates, one target for all, entropy of attention."""

    name = "paper"
    defaults = Defaults(
        quantile=0.9, init="paper", rank_weight=PAPER_WEIGHT, attention_weight=PAPER_WEIGHT,
        schedule="constant", weight_decay=0.0,
    )  # fmt: skip
    moves, limited, random_growth = True, False, True

    def first_rank(
        self, target: int, own: int | None, start: int | None, mean: float, most: int
    ) -> int:
        if start is not None:
            return start
        return target if own is None else own

    def keep_valid(self, parameter: Tensor) -> None:
        """Keeps a raw rate from stepping across zero, where f is no importance any more."""
        parameter.clamp_(min=SMALLEST_RATE)

    def weights(
        self, rates: Tensor, ranks: Tensor, mean_rank: float | Tensor, length: int
    ) -> Tensor:
        return importance(rates, length)


class Adaptive(Fixed):
    """The best that we know: log-rates, a target rank for each layer, all under one size."""

    name = "adaptive"
    defaults = Defaults(
        quantile=0.3, init="matched", rank_weight=AUCTION_WEIGHT, attention_weight=0.0,
        schedule="late", weight_decay=1.5,
    )  # fmt: skip
    moves = competes = True

    def first_rank(
        self, target: int, own: int | None, start: int | None, mean: float, most: int
    ) -> int:
        if start is not None:
            return start
        return min(most, max(1, round(FIRST_SHARE * (mean if own is None else own))))

    def parameter_of(self, rates: Tensor) -> Tensor:
        return rates.log()

    def rates_of(self, parameter: Tensor) -> Tensor:
        return parameter.exp()

    def ranks_of(self, rates: Tensor, quantile: float, max_ranks: Tensor) -> Tensor:
        return nearest_rank(rates, quantile, max_ranks)

    def weights(
        self, rates: Tensor, ranks: Tensor, mean_rank: float | Tensor, length: int
    ) -> Tensor:
        return stable_weights(rates, ranks, mean_rank, length)

    def std(self, init: str, weights: Tensor, fan_in: int) -> float:
        """Returns the stable weights scale by themselves, so `matched` is an ordinary LoRA's."""
        return paper_std(weights) if init == "paper" else plain_std(fan_in)

    def rate_learning_rate(self, learning_rate: float, steps: int) -> float:
        return RATE_TRAVEL / steps


MODES: dict[str, Fixed] = {mode.name: mode for mode in (Adaptive(), Paper(), Fixed())}
