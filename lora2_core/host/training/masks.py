"""Loss masks: how much each position of a picture counts."""

from __future__ import annotations

from dataclasses import dataclass, field

import kornia.filters as filters
import kornia.geometry.transform as geometry
import torch
from einops import rearrange
from torch import Tensor

from ...checks import check_range

SLACK = 0.01  # beyond 0 and 1: the host's resizing leaves values that far outside
BLUR_RADIUS = 3  # standard deviations: a Gaussian is below 0.3 % outside


@dataclass(frozen=True)
class MaskSettings:
    """Holds which positions count.

    masks: the host's MASKs [B, H, W], 1 = counts; one for all pictures or one for each; None for
        no masks.
    mask_blur: standard deviation of the Gaussian that softens them, in pixels of the latent.
    mask_floor: how much a position counts that is masked out.
    """

    masks: list[Tensor] | None = field(default=None, compare=False, repr=False)
    mask_blur: float = 0.0
    mask_floor: float = 0.1

    def __post_init__(self) -> None:
        check_range("mask_blur", self.mask_blur, 0, 100)
        check_range("mask_floor", self.mask_floor, 0, 1)

    def facts(self) -> dict:
        """Returns what the file says of them, {} without masks."""
        if self.masks is None:
            return {}
        return {"masked_loss": True, "mask_blur": self.mask_blur, "mask_floor": self.mask_floor}


def flatten_masks(masks: list[Tensor], count: int) -> list[Tensor]:
    """Returns one mask [1, 1, H, W] a picture, from 0 to 1. Raises ValueError for another number of
    masks, and for values that are no mask.
    """
    singles = []
    for mask in masks if isinstance(masks, list) else [masks]:
        if not torch.is_tensor(mask) or mask.ndim not in (2, 3) or 0 in mask.shape:
            raise ValueError("masks holds something that is no MASK: connect Load Image (as Mask).")
        singles += rearrange(mask.clone().float(), "... h w -> (...) 1 h w").split(1)
    if len(singles) not in (1, count):
        raise ValueError(
            f"There are {count} latents but {len(singles)} masks: give one mask for all, or one "
            "for each picture."
        )
    for index, mask in enumerate(singles, 1):
        low, high = float(mask.min()), float(mask.max())
        if not (low >= -SLACK and high <= 1 + SLACK):
            raise ValueError(f"Mask {index} goes from {low:g} to {high:g}: masks are from 0 to 1.")
        if high <= 0:
            raise ValueError(
                f"Mask {index} is 0 everywhere, so nothing of its picture would count: paint what "
                "counts, or invert the mask."
            )
    return [mask.clamp(0, 1) for mask in singles] * (count if len(singles) == 1 else 1)


def weights_of_mask(mask: Tensor, height: int, width: int, settings: MaskSettings) -> Tensor | None:
    """Returns a mask [1, 1, H, W] as weights [1, 1, height, width] of mean 1, None where all
    are 1.
    """
    mask = geometry.resize(mask, (height, width), interpolation="area")
    if settings.mask_blur > 0:
        size, sigma = 2 * round(BLUR_RADIUS * settings.mask_blur) + 1, settings.mask_blur
        mask = filters.gaussian_blur2d(mask, (size, size), (sigma, sigma), border_type="replicate")
    weights = settings.mask_floor + (1 - settings.mask_floor) * mask
    weights = weights / weights.mean()
    return None if torch.allclose(weights, torch.ones_like(weights)) else weights


def mask_weights(settings: MaskSettings, latents: list[Tensor]) -> list[Tensor | None]:
    """Returns the weights [1, 1, height, width] of every latent [1, channels, ..., height, width],
    None where all positions count alike. Raises ValueError for masks of other shapes than the
    pictures.
    """
    if settings.masks is None:
        return [None] * len(latents)
    weights = []
    masks = flatten_masks(settings.masks, len(latents))
    for index, (mask, latent) in enumerate(zip(masks, latents, strict=True), 1):
        (rows, columns), (height, width) = mask.shape[-2:], latent.shape[-2:]
        if abs(columns * height / rows - width) > 1 and abs(rows * width / columns - height) > 1:
            raise ValueError(
                f"Mask {index} is {columns} x {rows}, another shape than the latent's {width} x "
                f"{height}: crop it as its picture was cropped."
            )
        weights.append(weights_of_mask(mask, height, width, settings))
    return weights


def expand_weights(weights: Tensor, latent: Tensor) -> Tensor:
    """Returns weights [1, 1, height, width] as [1, 1, ..., height, width] of a latent [1, channels,
    ..., height, width]: alike in all frames.
    """
    frames = rearrange(weights, f"1 1 h w -> {'1 ' * (latent.ndim - 2)}h w")
    return frames.to(latent).expand_as(latent[:, :1])
