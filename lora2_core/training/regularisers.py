"""Regularisers of an adapter: dropout of rank positions and of layers, and a cap on each layer's
update.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ..layers.adapters import Adapters


class Dropout:
    """Draws the factors of Lambda for one pass.

    rank: the probability that a rank position is left out; the others are multiplied by 1 / (1 -
    rank), so that their mean stays. module: the probability that a layer is left out; the others
    stay as they are (both as sd-scripts has them).
    """

    def __init__(self, rank: float, module: float, generator: torch.Generator):
        self.rank, self.module, self.generator = rank, module, generator

    @property
    def used(self) -> bool:
        """Returns whether anything is ever left out."""
        return self.rank > 0 or self.module > 0

    def __call__(self, weights: Tensor) -> Tensor:
        """Returns the factors of the diagonals of Lambda, [layers, positions]."""
        factors = torch.ones(weights.shape)
        if self.rank > 0:
            kept = torch.rand(weights.shape, generator=self.generator) >= self.rank
            factors = kept / (1 - self.rank)
        if self.module > 0:
            kept = torch.rand((len(weights), 1), generator=self.generator) >= self.module
            factors = factors * kept
        return factors.to(weights)


@torch.no_grad()
def cap_norms(adapters: Adapters, most: float) -> None:
    """Scales lora_up of each layer so that the Frobenius norm of its update B Lambda A is at most
    `most`.
    """
    weights = adapters.weights.detach()
    for row, component in enumerate(adapters.components.values()):
        rank = component.rank
        if rank:
            up = component.lora_up[:, :rank]
            down = component.lora_down[:rank] * weights[row, :rank, None]
            square = ((up.T @ up) * (down @ down.T)).sum()
            component.lora_up *= (most * square.clamp(min=1e-30).rsqrt()).clamp(max=1.0)
