"""The maths of a learned rank: rate nu, importance and rank.

Each layer has a rate nu > 0. The importance of its rank positions falls exponentially with it: the
larger nu, the faster. The layer's rank is the number of positions that hold a quantile k of all
importance. Equations: Shenaj, Errica, Carta 2026 (arXiv 2603.21884), after Adaptive Width Neural
Networks (arXiv 2501.15889). `rates` are the nu of all layers, fp32 (layers,).
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

# ranks; subtracted before rounding up, or an error of fp32 (1e-7 of the rank) would add a rank
GUARD = 1e-3


def rate_for(rank: float, quantile: float = 0.9) -> float:
    """Returns the nu at which a layer has this rank: nu = -ln(1 - k) / D."""
    return -math.log1p(-quantile) / rank


def continuous_rank(rates: Tensor, quantile: float = 0.9) -> Tensor:
    """Returns ranks before rounding, -ln(1 - k) / nu: differentiable, (layers,)."""
    return -math.log1p(-quantile) / rates


def rank_of(rates: Tensor, quantile: float, max_ranks: Tensor) -> Tensor:
    """Returns D = ceil(-ln(1 - k) / nu - 1e-3) clamped to [1, max_ranks], int64 (layers,). A nu of
    0 or less gives max_ranks.
    """
    rank = continuous_rank(rates.detach(), quantile)
    rank = torch.where(rank > 0, rank, torch.inf)
    return (rank - GUARD).ceil().clamp(min=1).minimum(max_ranks).long()


def nearest_rank(rates: Tensor, quantile: float, max_ranks: Tensor) -> Tensor:
    """Returns -ln(1 - k) / nu rounded to the nearest integer in [0, max_ranks], int64 (layers,).

    Small changes of nu about an integer rank do not change it, and a layer can have rank 0.
    """
    return continuous_rank(rates.detach(), quantile).round().minimum(max_ranks).long()


def importance(rates: Tensor, length: int) -> Tensor:
    """Returns f(i; nu) = exp(-nu i) - exp(-nu (i + 1)) for i < length, (layers, length)."""
    i = torch.arange(length, device=rates.device, dtype=rates.dtype)
    return torch.exp(-rates[:, None] * i) * -torch.expm1(-rates)[:, None]


def relative_importance(rates: Tensor, length: int) -> Tensor:
    """Returns f(i; nu) / f(0; nu) = exp(-nu i), which is 1 at the first position, (layers,
    length).
    """
    i = torch.arange(length, device=rates.device, dtype=rates.dtype)
    return torch.exp(-rates[:, None] * i)


def stable_weights(rates: Tensor, ranks: Tensor, mean_rank: float | Tensor, length: int) -> Tensor:
    """Returns exp(-nu i) with a scale for each layer, (layers, length).

    The scale makes the squares of the first D weights add up to `mean_rank` in every layer,
    whatever its own rank D is: its positions, which learn independent things, then move it as far
    in a step as those of a plain LoRA of rank `mean_rank` do, and one learning rate suits all ranks
    (rank stabilisation, Kalajdzievski 2023). The scale is a constant to the gradient. mean_rank:
    one number, or one for each layer, (layers, 1).
    """
    weights = relative_importance(rates, length)
    inside = torch.arange(length, device=rates.device) < ranks[:, None].clamp(min=1)
    squares = (weights.detach() * inside).square().sum(1, keepdim=True)
    return weights * (mean_rank / squares).sqrt()


def paper_std(weights: Tensor) -> float:
    """Returns the paper's standard deviation of lora_down: sqrt(2) / sqrt(sum_j f(j)^2)."""
    return math.sqrt(2) / math.sqrt(float(weights.square().sum()))


def plain_std(fan_in: int) -> float:
    """Returns the standard deviation of an ordinary LoRA's lora_down (kaiming-uniform with
    a = sqrt(5)): 1 / sqrt(3 fan_in).
    """
    return 1 / math.sqrt(3 * fan_in)


def matched_std(weights: Tensor, fan_in: int) -> float:
    """Returns the standard deviation of lora_down that gives Lambda lora_down, in the mean over its
    rows, the variance of an ordinary LoRA's: sqrt(D / (3 fan_in sum_j f(j)^2)).
    """
    return math.sqrt(weights.numel() / (3 * fan_in * float(weights.square().sum())))


def rank_loss(rates: Tensor, target_rate: float | Tensor) -> Tensor:
    """Returns L_rank = sum over layers of |nu - nu*|, a scalar; in adaptive mode of ln(nu)."""
    return (rates - target_rate).abs().sum()
