"""The maths of a learned rank: importance, rank and rate of one or of all layers.

A layer's rate nu > 0 says how fast the importance of its rank positions falls; the rank is where a
quantile k of all importance lies before it. Equations: Shenaj, Errica, Carta 2026 (arXiv
2603.21884), after Adaptive Width Neural Networks (arXiv 2501.15889). Rates are fp32 tensors of
shape (layers,).
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

GUARD = 1e-3  # keeps ceil from jumping a rank up on fp32 rounding


def rate_for(rank: float, quantile: float = 0.9) -> float:
    """Returns the rate whose rank is `rank`: nu = -ln(1 - k) / D."""
    return -math.log1p(-quantile) / rank


def continuous_rank(rates: Tensor, quantile: float = 0.9) -> Tensor:
    """Returns the rank before rounding, differentiable: -ln(1 - k) / nu, shape as `rates`."""
    return -math.log1p(-quantile) / rates


def rank_of(rates: Tensor, quantile: float, max_ranks: Tensor) -> Tensor:
    """Returns d = ceil(-ln(1 - k) / nu - 1e-3) clamped to [1, max_ranks], int64; a rate <= 0 means
    max_ranks.
    """
    rank = continuous_rank(rates.detach(), quantile)
    rank = torch.where(rank > 0, rank, torch.inf)
    return (rank - GUARD).ceil().clamp(min=1).minimum(max_ranks).long()


def nearest_rank(rates: Tensor, quantile: float, max_ranks: Tensor) -> Tensor:
    """Returns -ln(1 - k) / nu rounded to the nearest, in [0, max_ranks], int64: a rate that hovers
    about a rank does not move it, and a layer can be given up.
    """
    return continuous_rank(rates.detach(), quantile).round().minimum(max_ranks).long()


def importance(rates: Tensor, length: int) -> Tensor:
    """Returns f(i; nu) = exp(-nu i) - exp(-nu (i + 1)) for i = 0 .. length - 1: shape (layers,
    length).
    """
    i = torch.arange(length, device=rates.device, dtype=rates.dtype)
    return torch.exp(-rates[:, None] * i) * -torch.expm1(-rates)[:, None]


def relative_importance(rates: Tensor, length: int) -> Tensor:
    """Returns f(i; nu) / f(0; nu) = exp(-nu i): the same order with 1 at the first position,
    (layers, length).
    """
    i = torch.arange(length, device=rates.device, dtype=rates.dtype)
    return torch.exp(-rates[:, None] * i)


def stable_weights(rates: Tensor, ranks: Tensor, mean_rank: float | Tensor, length: int) -> Tensor:
    """Returns exp(-nu i), scaled so that each layer moves as far in a step as a plain LoRA of
    `mean_rank` at scale 1, whatever its own rank D is now: the learning rate that suits the one
    suits the other. (layers, length); mean_rank of each layer, where they differ, is (layers, 1).

    Steps of positions that learn the same thing add up, so sum_{i < D} of the weights is
    `mean_rank` at most; those of independent ones add up in squares, so that of their squares is
    too (rank stabilisation, Kalajdzievski 2023). The scale is a constant to the gradient.
    """
    weights = relative_importance(rates, length)
    inside = torch.arange(length, device=rates.device) < ranks[:, None].clamp(min=1)
    used = weights.detach() * inside
    alike = mean_rank / used.sum(1, keepdim=True)
    apart = (mean_rank / used.square().sum(1, keepdim=True)).sqrt()
    return weights * torch.minimum(alike, apart)


def paper_std(weights: Tensor) -> float:
    """Returns standard deviation of lora_down in the paper: sqrt(2) / sqrt(sum_j f(j)^2)."""
    return math.sqrt(2) / math.sqrt(float(weights.square().sum()))


def plain_std(fan_in: int) -> float:
    """Returns standard deviation of an ordinary LoRA's lora_down (kaiming-uniform, a = sqrt(5)): 1
    / sqrt(3 fan_in).
    """
    return 1 / math.sqrt(3 * fan_in)


def matched_std(weights: Tensor, fan_in: int) -> float:
    """Returns standard deviation of lora_down at which the weighted rows have, on average, the
    variance 1 / (3 fan_in) of an ordinary LoRA (kaiming-uniform, a = sqrt(5)): sqrt(D / (3 in sum_j
    f(j)^2)).
    """
    return math.sqrt(weights.numel() / (3 * fan_in * float(weights.square().sum())))


def rank_loss(rates: Tensor, target_rate: float | Tensor) -> Tensor:
    """Returns L_rank = sum over layers of |nu - nu*|, a scalar."""
    return (rates - target_rate).abs().sum()
