"""What the loss minds: which noise levels are drawn, how they are weighed, and how errors count."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from ..checks import check_choice, check_range

SMALLEST_TIME = 1e-4  # of a cubic draw: beyond it, fp32 can't tell the noise from the picture


def uniform(u: Tensor) -> Tensor:
    return u


def logit_normal(u: Tensor) -> Tensor:
    """Draws most times in the middle: the sigmoid of a normal number (Stable Diffusion 3, arXiv
    2403.03206).
    """
    return torch.special.ndtri(u.clamp(min=2**-25)).sigmoid()


def high_noise(u: Tensor) -> Tensor:
    """Draws most times, by a cubic, where the composition is decided (T2I-Adapter, arXiv
    2302.08453).
    """
    return 1 - (1 - u) ** 3


def low_noise(u: Tensor) -> Tensor:
    """Draws most times, by a cubic, where details are decided."""
    return (u**3).clamp(min=SMALLEST_TIME)


def min_snr(snr: Tensor, gamma: float) -> Tensor:
    """Returns the weight of the error of the clean picture (arXiv 2303.09556)."""
    return snr.clamp(max=gamma)


def debiased(snr: Tensor, gamma: float) -> Tensor:
    """Returns the weight of the error of the clean picture: 1 / sqrt(SNR) of that of the noise
    (arXiv 2310.08442).
    """
    return snr.sqrt()


SAMPLINGS: dict[str, Callable[[Tensor], Tensor]] = {
    f.__name__: f for f in (uniform, logit_normal, low_noise, high_noise)
}
WEIGHTINGS: dict[str, Callable[[Tensor, float], Tensor] | None] = {
    "none": None, "min_snr": min_snr, "debiased": debiased,
}  # fmt: skip


@dataclass(frozen=True)
class LossSettings:
    """How L_rec is made.

    weighting: of noise levels: none (each alike), min_snr or debiased; gamma: the SNR at which
        min_snr caps.
    huber: 0 for the squared error, else the error from which on it grows linearly.
    noise_offset: so much noise that is the same all over a channel is added to the noise.
    sampling: how times are drawn: uniform, logit_normal, low_noise or high_noise.
    min_timestep, max_timestep: the times that are drawn, 0 the clean picture, 1 pure noise.
    """

    weighting: str = "none"
    gamma: float = 5.0
    huber: float = 0.0
    noise_offset: float = 0.0
    sampling: str = "uniform"
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
        """Times in [min_timestep, max_timestep] of numbers drawn uniformly from [0, 1)."""
        span = self.max_timestep - self.min_timestep
        return self.min_timestep + span * SAMPLINGS[self.sampling](u)

    def offset(self, noise: Tensor, generator: torch.Generator) -> Tensor:
        """Returns the noise [B, channels, ...] with its offset, if there is one."""
        if self.noise_offset == 0:
            return noise
        shape = (*noise.shape[:2], *(1 for _ in noise.shape[2:]))
        return noise + self.noise_offset * torch.randn(shape, generator=generator).to(noise)

    def mean(self, error: Tensor, weights: Tensor | None) -> Tensor:
        """Returns the loss of a batch: errors [B, ...], one weight for each picture [B, 1, ...] or
        None.
        """
        if self.huber > 0:
            zeros = torch.zeros_like(error)
            values = 2 * F.huber_loss(error, zeros, reduction="none", delta=self.huber)
        else:
            values = error.square()
        return (values if weights is None else values * weights).mean()
