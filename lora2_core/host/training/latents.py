"""Latents that can be trained on: the graph's LATENTs as one tensor a picture."""

from __future__ import annotations

import torch
from einops import rearrange
from torch import Tensor

from ..data.encoding import PICTURE


def flatten_latents(latents: list[dict], model) -> list[Tensor]:
    """Returns every picture of a list of LATENTs as [1, channels, ..., height, width]. Raises
    ValueError for an empty list, for NaN, and for latents of another kind of model.
    """
    batches = latents if isinstance(latents, list) else [latents]
    pictures = [
        picture
        for number, latent in enumerate(batches, 1)
        for picture in samples_of(number, latent).split(1)
    ]
    if not pictures:
        raise ValueError(
            "There are no latents to train on: connect at least one picture through VAE Encode."
        )
    form = model.get_model_object("latent_format")
    channels, dimensions = form.latent_channels, 2 + getattr(form, "latent_dimensions", 2)
    if dimensions == 5:  # a picture is one frame to models that know videos
        pictures = [rearrange(p, "b c h w -> b c 1 h w") if p.ndim == 4 else p for p in pictures]
    for index, picture in enumerate(pictures, 1):
        check_picture(index, picture, channels, dimensions)
    return pictures


def samples_of(number: int, latent: object) -> Tensor:
    """Returns the tensor [B, ...] of the LATENT of this number. Raises ValueError where it holds no
    picture, or a noise mask.
    """
    samples = latent.get("samples") if isinstance(latent, dict) else None
    if not torch.is_tensor(samples) or samples.ndim == 0:
        raise ValueError(
            "latents holds something that is no LATENT: connect a VAE Encode or a dataset node."
        )
    if samples.numel() == 0:
        raise ValueError(
            f"LATENT {number} holds no picture, its shape is {list(samples.shape)}: connect at "
            "least one picture through VAE Encode."
        )
    if torch.is_tensor(mask := latent.get("noise_mask")) and bool((mask != 1).any()):
        raise ValueError(
            f"LATENT {number} has a noise mask, which training does not follow: encode the "
            "picture with VAE Encode, and connect its mask to masks of LoRA2 Data Options."
        )
    return samples


def check_picture(number: int, picture: Tensor, channels: int, dimensions: int) -> None:
    """Raises ValueError unless the picture of this number is finite and has the model's shape."""
    if picture.ndim != dimensions:
        raise ValueError(
            f"Latent {number} has {picture.ndim} dimensions, but this model's latents have "
            f"{dimensions}: encode the pictures with the VAE that belongs to the model."
        )
    if picture.shape[1] != channels:
        raise ValueError(
            f"Latent {number} has {picture.shape[1]} channels, but this model's latents have "
            f"{channels}: encode the pictures with the VAE that belongs to the model."
        )
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
    if any(not isinstance(b, dict) or not torch.is_tensor(b.get("samples")) for b in batches):
        return []
    names: list[str] = []
    known: dict[tuple, str] = {}
    for batch in batches:
        for sample in batch["samples"].split(1):
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
    samples = [batch.get("samples") if isinstance(batch, dict) else None for batch in batches]
    return sum(map(len, samples)) if all(getattr(s, "ndim", 0) for s in samples) else 0
