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

# Figures: "F" is section F of docs/results.md, the loss on unseen pictures with one choice changed.

# adaptive: a run starts at this many times the target rank and descends to it
# (sections F and G: other values)
FIRST_SHARE = 6
# adaptive: how far ln(nu) can move in a run; every step moves it by 15 / steps at most. Between the
# highest rank of 4096 and a layer that is given up lie ln(4096 / 0.3) = 9.5
RATE_TRAVEL = 15.0
# paper: the lowest nu, which at quantile 0.9 is rank 23,026, above every max_rank
SMALLEST_RATE = 1e-4
# paper: lambda_rank and lambda_attn; the paper does not say them
PAPER_WEIGHT = 1e-4
# adaptive: lambda_rank as a multiple of the running loss. It only has to outweigh the gradient of
# the loss: its pull ends at a layer's target rank, so its size does not decide the ranks
AUCTION_WEIGHT = 10.0


@dataclass(frozen=True)
class Defaults:
    """A mode's values for settings that are None.

    quantile, init, rank_weight, attention_weight: as in RankSettings. schedule, weight_decay (of a
    run): as in TrainSettings. layers: the kind of layers that `auto` means in TargetSettings.

    Figures (F, see above): weight_decay 0 instead of 1.5 +22.0%; a constant learning rate instead
    of late +24.6%; quantile 0.9 instead of 0.3 +7.2%. Paper mode has the paper's own values.
    """

    quantile: float
    init: str
    rank_weight: float
    attention_weight: float
    schedule: str
    weight_decay: float
    layers: str = "all in blocks"


class Fixed:
    """Plain LoRA: every layer keeps the rank that it is given, and Lambda is 1."""

    name: ClassVar[str] = "fixed"
    defaults: ClassVar[Defaults] = Defaults(
        quantile=0.9, init="matched", rank_weight=0.0, attention_weight=0.0,
        schedule="late", weight_decay=1.5,
    )  # fmt: skip
    # ranks follow the rates nu
    moves: ClassVar[bool] = False
    # layers compete for rank under one size
    competes: ClassVar[bool] = False
    # a run can't end larger than the settings allow
    limited: ClassVar[bool] = True
    # new rank positions get a random lora_up, not zeros
    random_growth: ClassVar[bool] = False

    def first_rank(
        self, target: int, own: int | None, start: int | None, mean: float, most: int
    ) -> int:
        """Returns the rank that a layer starts with.

        target: target rank of all layers. own: target rank of this layer alone, or None. start:
        start_rank of the settings, or None. mean: the highest mean rank allowed. most: the highest
        rank allowed.
        """
        if own is not None:
            return own
        return target if start is None else start

    def parameter_of(self, rates: Tensor) -> Tensor:
        """Returns the trained form of the rates nu, (layers,)."""
        return rates

    def rates_of(self, parameter: Tensor) -> Tensor:
        """Returns nu, (layers,): the inverse of `parameter_of`, differentiable."""
        return parameter

    def keep_valid(self, parameter: Tensor) -> None:
        """Moves rates that have left their range back into it, in place."""

    def ranks_of(self, rates: Tensor, quantile: float, max_ranks: Tensor) -> Tensor:
        """Returns the rank that each rate nu means, int64 (layers,)."""
        return rank_of(rates, quantile, max_ranks)

    def weights(
        self, rates: Tensor, ranks: Tensor, mean_rank: float | Tensor, length: int
    ) -> Tensor:
        """Returns the diagonal of each layer's Lambda, not yet cut at its rank, (layers,
        length).
        """
        return torch.ones(len(ranks), length, device=ranks.device)

    def std(self, init: str, weights: Tensor, fan_in: int) -> float:
        """Returns the standard deviation of a new lora_down.

        weights: the diagonal of the layer's Lambda; fan_in: its inputs.
        """
        return paper_std(weights) if init == "paper" else matched_std(weights, fan_in)

    def rate_learning_rate(self, learning_rate: float, steps: int) -> float:
        """Returns the learning rate of the rates nu, given that of the weights and the run's
        steps.
        """
        return learning_rate


class Paper(Fixed):
    """arXiv 2603.21884 to the letter: nu itself is trained, one target rank for all layers, and a
    loss on the entropy of attention.
    """

    name = "paper"
    defaults = Defaults(
        quantile=0.9, init="paper", rank_weight=PAPER_WEIGHT, attention_weight=PAPER_WEIGHT,
        schedule="constant", weight_decay=0.0, layers="attention",
    )  # fmt: skip
    moves, limited, random_growth = True, False, True

    def first_rank(
        self, target: int, own: int | None, start: int | None, mean: float, most: int
    ) -> int:
        if start is not None:
            return start
        return target if own is None else own

    def keep_valid(self, parameter: Tensor) -> None:
        """Keeps nu positive: at zero and below, the importance f(i; nu) has no meaning."""
        parameter.clamp_(min=SMALLEST_RATE)

    def weights(
        self, rates: Tensor, ranks: Tensor, mean_rank: float | Tensor, length: int
    ) -> Tensor:
        return importance(rates, length)


class Adaptive(Fixed):
    """The best mode known here: ln(nu) is trained, and each layer has a target rank of its own
    under one size for all.
    """

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
        """Returns the standard deviation of an ordinary LoRA for init `matched`: stable_weights has
        the scale in it already.
        """
        return paper_std(weights) if init == "paper" else plain_std(fan_in)

    def rate_learning_rate(self, learning_rate: float, steps: int) -> float:
        return RATE_TRAVEL / steps


MODES: dict[str, Fixed] = {mode.name: mode for mode in (Adaptive(), Paper(), Fixed())}
