"""Latents that can be trained on: the graph's LATENTs as one tensor an example.

An example is a picture [1, channels, height, width], a video [1, channels, frames, height, width]
or a piece of audio [1, channels, length]. Models of video with audio have a LATENT of several
tensors, which the host nests; here they are packed into one [1, 1, values], beside their shapes.
"""

from __future__ import annotations

from dataclasses import dataclass

import comfy.utils
import torch
from einops import rearrange
from torch import Tensor

from ..data.encoding import PICTURE

KINDS = {3: "audio", 4: "picture", 5: "video"}  # dimensions -> what such a latent is


@dataclass(frozen=True)
class Latent:
    """Holds one example. values: [1, channels, ...], or [1, 1, all values] of several tensors.
    shapes: those of the tensors, one where there is one.
    """

    values: Tensor
    shapes: tuple[tuple[int, ...], ...]

    @classmethod
    def of(cls, parts: list[Tensor]) -> Latent:
        """Returns the latent of one tensor or of several."""
        shapes = tuple(tuple(part.shape) for part in parts)
        values = parts[0] if len(parts) == 1 else comfy.utils.pack_latents(parts)[0]
        return cls(values, shapes)

    @property
    def pictures(self) -> bool:
        """Returns whether it has height and width: one picture, or the frames of one video."""
        return len(self.shapes) == 1 and len(self.shapes[0]) > 3


def flatten_latents(latents: list[dict], model) -> list[Latent]:
    """Returns every example of a list of LATENTs. Raises ValueError for an empty list, for NaN, and
    for latents of another kind of model.
    """
    batches = latents if isinstance(latents, list) else [latents]
    examples = [
        list(parts)
        for number, latent in enumerate(batches, 1)
        for parts in zip(*(p.split(1) for p in samples_of(number, latent)), strict=True)
    ]
    if not examples:
        raise ValueError(
            "There are no latents to train on: connect at least one picture through VAE Encode."
        )
    form = model.get_model_object("latent_format")
    channels, dimensions = form.latent_channels, 2 + getattr(form, "latent_dimensions", 2)
    for index, parts in enumerate(examples, 1):
        if dimensions == 5 and parts[0].ndim == 4:  # one frame to models that know videos
            parts[0] = rearrange(parts[0], "b c h w -> b c 1 h w")
        if len(parts) == 1:
            check_shape(index, parts[0], channels, dimensions)
        for part in parts:
            check_finite(index, part)
    return [Latent.of(parts) for parts in examples]


def samples_of(number: int, latent: object) -> list[Tensor]:
    """Returns the tensor [B, ...] of the LATENT of this number, or its tensors where it has several
    of one B. Raises ValueError where it holds none, or a noise mask.
    """
    samples = latent.get("samples") if isinstance(latent, dict) else None
    nested = not torch.is_tensor(samples) and getattr(samples, "is_nested", False)
    parts = list(samples.unbind()) if nested else [samples]
    if not parts or not all(torch.is_tensor(part) and part.ndim for part in parts):
        raise ValueError(
            "latents holds something that is no LATENT: connect a VAE Encode or a dataset node."
        )
    for part in parts:
        if part.numel() == 0 or len(part) != len(parts[0]):
            raise ValueError(
                f"LATENT {number} holds no picture, its shape is {list(part.shape)}: connect at "
                "least one picture through VAE Encode."
            )
    if torch.is_tensor(mask := latent.get("noise_mask")) and bool((mask != 1).any()):
        raise ValueError(
            f"LATENT {number} has a noise mask, which training does not follow: encode the "
            "picture with VAE Encode, and connect its mask to masks of LoRA2 Data Options."
        )
    return parts


def check_shape(number: int, picture: Tensor, channels: int, dimensions: int) -> None:
    """Raises ValueError unless the latent of this number has the model's dimensions and
    channels.
    """
    if picture.ndim != dimensions:
        kinds = KINDS.get(picture.ndim), KINDS.get(dimensions)
        which = "" if None in kinds else "a latent of {}, for a model of {}. ".format(*kinds)
        raise ValueError(
            f"Latent {number} has {picture.ndim} dimensions, but this model's latents have "
            f"{dimensions}: {which}Encode with the VAE that belongs to the model."
        )
    if picture.shape[1] != channels:
        raise ValueError(
            f"Latent {number} has {picture.shape[1]} channels, but this model's latents have "
            f"{channels}: encode the pictures with the VAE that belongs to the model."
        )


def check_finite(number: int, picture: Tensor) -> None:
    """Raises ValueError where the latent of this number holds NaN or infinite values."""
    if not torch.isfinite(picture).all():
        raise ValueError(
            f"Latent {number} holds NaN or infinite values: check the picture and the VAE."
        )


def names_of(latents: object) -> list[str]:
    """Returns a name for every picture of a list of LATENTs: the one that LoRA2 Dataset gave it,
    else its number. The same picture has one name, however often it comes. [] where a LATENT holds
    no tensor.
    """
    batches = latents if isinstance(latents, (list, tuple)) else [latents]
    try:
        firsts = [samples_of(number, batch)[0] for number, batch in enumerate(batches, 1)]
    except ValueError:  # said by the training itself
        return []
    names: list[str] = []
    known: dict[tuple, str] = {}
    for batch, samples in zip(batches, firsts, strict=True):
        for sample in samples.split(1):
            given = batch.get(PICTURE)
            key = (given,) if isinstance(given, str) else memory_of(sample)
            names.append(known.setdefault(key, given if len(key) == 1 else str(len(known) + 1)))
    return names


def memory_of(tensor: Tensor) -> tuple:
    """Returns where a tensor's values lie in memory: the same for all views of the same values."""
    return tensor.device, tensor.data_ptr(), tensor.dtype, tensor.shape, tensor.stride()


def count_pictures(latents: object) -> int:
    """Returns how many pictures a list of LATENTs holds, 0 where that can't be said."""
    batches = latents if isinstance(latents, (list, tuple)) else [latents]
    try:
        return sum(len(samples_of(number, batch)[0]) for number, batch in enumerate(batches, 1))
    except ValueError:  # said by the training itself
        return 0
