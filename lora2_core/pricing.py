"""What a rank costs while it is learned: the penalty that each mode adds to the loss."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from .adapters import Adapters
from .rank import continuous_rank, rank_loss, rate_for

PAPER_WEIGHT = 1e-4  # lambda_rank and lambda_attn where the paper leaves them unsaid
FIRST_PRICE = 1e-3  # of the running loss, for a whole ceiling's worth of parameters
LOWEST_PRICE, HIGHEST_PRICE = 1e-4, 1e2
PRICE_GAIN = 30.0  # of the logarithm of the price, a whole size off the allowed one
BASE_GAIN = 0.3  # the same for the slow part of it, a step
DESCENT = 0.7


class NoPrice:
    """Fixed mode: ranks cost nothing since they do not move."""

    def __init__(self, adapters: Adapters, steps: int):
        self.zero = torch.zeros((), device=adapters.device)

    def penalty(self, loss: Tensor) -> Tensor:
        return self.zero


class PaperPrice:
    """lambda_rank * sum_l |nu_l - nu*|, as published."""

    def __init__(self, adapters: Adapters, steps: int):
        settings = adapters.settings
        self.adapters = adapters
        self.weight = PAPER_WEIGHT if settings.rank_weight is None else settings.rank_weight
        self.target = rate_for(settings.target_rank, settings.quantile)

    def penalty(self, loss: Tensor) -> Tensor:
        return self.weight * rank_loss(self.adapters.rates, self.target)


class CeilingPrice:
    """A price on size itself, so that the adapter descends from its first size to its ceiling.

    penalty = price * loss_0 * size with size = sum_l cost_l D_l / ceiling and the continuous rank D
    = -ln(1 - k) / nu: every layer pays the same for a parameter, and keeps what is worth it to the
    loss. The allowed size falls from the first size to 1 over the first DESCENT of the run; the
    price rises and falls exponentially with the distance to it, and its base slowly follows (mostly
    proportional control: a faster base would overshoot, and rank given back too early returns
    slowly). loss_0 is a running mean of the
    loss, which makes the price a pure number. The price never falls to zero, so rank that brings
    nothing is given back. With `rank_weight` set, the price stays at it.
    """

    def __init__(self, adapters: Adapters, steps: int):
        self.adapters = adapters
        self.fixed = adapters.settings.rank_weight
        self.price = FIRST_PRICE if self.fixed is None else self.fixed
        self.base = FIRST_PRICE
        self.running: float | None = None
        self.first_size: float | None = None
        self.descent = max(1, DESCENT * steps)
        self.index = 0

    def size(self) -> Tensor:
        """Parameters as a share of the ceiling, differentiable in the rates."""
        a = self.adapters
        ranks = continuous_rank(a.rates, a.settings.quantile).minimum(a.max_ranks)
        return (a.costs * ranks).sum() / a.ceiling

    def penalty(self, loss: Tensor) -> Tensor:
        size, now = self.size(), float(loss.detach())
        if math.isfinite(now):
            self.running = now if self.running is None else 0.95 * self.running + 0.05 * now
        if self.fixed is None:
            value = float(size.detach())
            self.first_size = self.first_size or max(1.0, value)
            left = max(0.0, 1 - self.index / self.descent)
            allowed = 1 + (self.first_size - 1) * left
            excess = value / allowed - 1
            self.base *= math.exp(BASE_GAIN * max(-0.1, min(0.1, excess)))
            self.base = max(LOWEST_PRICE, min(HIGHEST_PRICE, self.base))
            price = self.base * math.exp(min(20.0, PRICE_GAIN * excess))
            self.price = max(LOWEST_PRICE, min(HIGHEST_PRICE, price))
            self.index += 1
        return self.price * (self.running or 0.0) * size


PRICES = {"fixed": NoPrice, "paper": PaperPrice, "adaptive": CeilingPrice}
