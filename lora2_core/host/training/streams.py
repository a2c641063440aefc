"""Noise levels of models whose latents hold several streams, each with a schedule of its own.

MiniMax H3 is told the video's level sigma_v. Its audio is at sigma_a = g(sigma_v), and its
prediction for the audio is multiplied by g'(sigma_v), so that one sampler moves both.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Levels:
    """Holds a noise level for every value of packed latents, [B, 1, values]. told: what the model
    is told. own: the level that a value is at. slope: d own / d told.
    """

    told: Tensor
    own: Tensor
    slope: Tensor

    def noised(self, latents: Tensor, noise: Tensor) -> Tensor:
        """Returns the latents at their levels, for models that flow from noise to data."""
        return self.own * noise + (1 - self.own) * latents

    def error(self, x: Tensor, denoised: Tensor, latents: Tensor, noise: Tensor) -> Tensor:
        """Returns the error of the predicted velocity at x."""
        return (x - denoised) / (self.told * self.slope) - (noise - latents)


def shifted(sigma: Tensor, before: float, after: float) -> tuple[Tensor, Tensor]:
    """Returns g(sigma) and g'(sigma), where g takes the shift `before` away and gives the shift
    `after`. A shift s makes s t / (1 + (s - 1) t) of a time t.
    """
    ratio = after / before
    below = 1 + (ratio - 1) * sigma
    return ratio * sigma / below, ratio / below.square()


def levels(inner, sigma: Tensor, shapes: list[tuple[int, ...]]) -> Levels | None:
    """Returns the levels of video and audio [B, 1, values] at the video's sigma [B], None for
    models whose latents are all at one level.
    """
    shifts = [getattr(inner.diffusion_model, f"sigma_shift_{s}", None) for s in ("video", "audio")]
    if None in shifts or len(shapes) != len(shifts):
        return None
    own, slope = shifted(sigma, *shifts)
    counts = torch.tensor([math.prod(shape[1:]) for shape in shapes], device=sigma.device)
    parts = [torch.stack(pair, 1) for pair in ((sigma, own), (torch.ones_like(sigma), slope))]
    each = [part.repeat_interleave(counts, 1)[:, None] for part in parts]
    return Levels(sigma[:, None, None], *each)
