"""The parts of the loss L_rec: which noise levels are drawn, what they weigh, how errors count."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from ..checks import check_choice, check_range

# the lowest time of a cubic draw, 1 being pure noise: below it the noise is lost in fp32's rounding
SMALLEST_TIME = 1e-4


AUTO, BY_SIZE = "auto", "size_shift"  # samplings that the model has a say in


def uniform(u: Tensor) -> Tensor:
    """Draws every time equally often."""
    return u


def logit_normal(u: Tensor) -> Tensor:
    """Draws times in the middle most often: the sigmoid of a normal number (Stable Diffusion 3,
    arXiv 2403.03206).
    """
    return torch.special.ndtri(u.clamp(min=2**-25)).sigmoid()


def high_noise(u: Tensor) -> Tensor:
    """Draws high times most often, which decide the composition, by a cubic (T2I-Adapter, arXiv
    2302.08453).
    """
    return 1 - (1 - u) ** 3


def low_noise(u: Tensor) -> Tensor:
    """Draws low times most often, which decide the details, by a cubic."""
    return (u**3).clamp(min=SMALLEST_TIME)


def min_snr(snr: Tensor, gamma: float) -> Tensor:
    """Returns the weights of min-SNR for the error of the clean picture (arXiv 2303.09556)."""
    return snr.clamp(max=gamma)


def debiased(snr: Tensor, gamma: float) -> Tensor:
    """Returns the debiased weights for the error of the clean picture, which are 1 / sqrt(SNR) for
    the error of the noise (arXiv 2310.08442).
    """
    return snr.sqrt()


# auto: whoever knows the model puts the family's usual one in its place, else all count alike
SAMPLINGS: dict[str, Callable[[Tensor], Tensor]] = {
    AUTO: uniform,
    **{f.__name__: f for f in (uniform, logit_normal, low_noise, high_noise)},
    BY_SIZE: logit_normal,
}
WEIGHTINGS: dict[str, Callable[[Tensor, float], Tensor] | None] = {
    "none": None, "min_snr": min_snr, "debiased": debiased,
}  # fmt: skip


@dataclass(frozen=True)
class LossSettings:
    """Settings of the loss L_rec.

    weighting: the weights of noise levels: none (all equal), min_snr or debiased.
    gamma: the SNR at which min_snr caps.
    huber: 0 for the squared error, else the error above which the loss grows linearly.
    noise_offset: the amount of noise, equal all over a channel, that is added to the noise.
    sampling: how times are drawn: uniform, logit_normal, low_noise, high_noise; size_shift as
        logit_normal, by flow models whose shift then depends on the size of the picture; auto as
        the model's family usually does.
    min_timestep, max_timestep: the range of times; 0 is the clean picture, 1 pure noise.
    """

    weighting: str = "none"
    gamma: float = 5.0
    huber: float = 0.0
    noise_offset: float = 0.0
    sampling: str = AUTO
    min_timestep: float = 0.0
    max_timestep: float = 1.0

    def __post_init__(self) -> None:
        check_choice("weighting", self.weighting, tuple(WEIGHTINGS))
        check_choice("sampling", self.sampling, tuple(SAMPLINGS))
        check_range("gamma", self.gamma, 1e-3, 1e3)
        check_range("huber", self.huber, 0, 1e3)
        check_range("noise_offset", self.noise_offset, 0, 1)
        check_range("min_timestep", self.min_timestep, 0, 1)
        check_range("max_timestep", self.max_timestep, 0, 1)
        if self.min_timestep >= self.max_timestep:
            raise ValueError(
                f"min_timestep {self.min_timestep:g} is not below max_timestep "
                f"{self.max_timestep:g}: lower min_timestep or raise max_timestep."
            )

    def times(self, u: Tensor) -> Tensor:
        """Returns times in [min_timestep, max_timestep], given numbers drawn uniformly from [0,
        1).
        """
        span = self.max_timestep - self.min_timestep
        return self.min_timestep + span * SAMPLINGS[self.sampling](u)

    def offset(self, noise: Tensor, generator: torch.Generator) -> Tensor:
        """Returns the noise [B, channels, ...] with noise_offset added."""
        if self.noise_offset == 0:
            return noise
        shape = (*noise.shape[:2], *(1 for _ in noise.shape[2:]))
        return noise + self.noise_offset * torch.randn(shape, generator=generator).to(noise)

    def mean(self, error: Tensor, weights: Tensor | None) -> Tensor:
        """Returns the loss of a batch.

        error [B, ...]; weights: one for each picture, [B, 1, ...], or None.
        """
        if self.huber > 0:
            zeros = torch.zeros_like(error)
            values = 2 * F.huber_loss(error, zeros, reduction="none", delta=self.huber)
        else:
            values = error.square()
        return (values if weights is None else values * weights).mean()
