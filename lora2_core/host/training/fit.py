"""Whether a model can compute with what it is given: it is asked itself, before the first step."""

from __future__ import annotations

import re

import torch

from .items import UNFIT, Item
from .memory import out_of_memory
from .objective import DEFAULT, Draw, loss_of, positions, sigma_at

WIDTHS = ("context_dim", "context_in_dim")  # of captions, in the host's configuration of a model
# in what torch says of tensors that don't fit together
MISFIT = re.compile(r"shape|size|dimension|expected|channels|broadcast|match", re.IGNORECASE)


def kind_of(item: Item) -> tuple:
    """Returns what the model must be able to take: names, kinds and widths of the conditions."""
    found = []
    for name, condition in sorted(item.conditions.items()):
        tensor = getattr(condition, "cond", None)
        shape = tuple(tensor.shape) if torch.is_tensor(tensor) else ()
        width = shape[1:2] if len(shape) > 3 else shape[-1:]  # channels of pictures
        found.append((name, type(condition).__name__, len(shape), width))
    return tuple(found)


def check_model_takes(inner, items: list[Item], entries: list[list], options: dict) -> None:
    """Raises ValueError where the model can't compute with a picture and its caption: asks the
    model itself, once for each kind of conditions, with the smallest picture of the kind.
    """
    kinds: dict[tuple, list[int]] = {}
    for index, item in enumerate(items):
        kinds.setdefault(kind_of(item), []).append(index)
    for indices in kinds.values():
        item = min((items[i] for i in indices), key=lambda i: i.latent.numel())
        try:
            forward(inner, item, options)
        except UNFIT as error:
            if out_of_memory(error):
                return
            if isinstance(error, RuntimeError) and not MISFIT.search(str(error)):
                raise  # the device's fault, or the model's own
            raise ValueError(unfit(inner, indices[0] + 1, entries[indices[0]], error)) from error


def forward(inner, item: Item, options: dict) -> None:
    """Computes one prediction in the middle of the noise levels, without gradients."""
    middle, latent = torch.tensor([0.5]), item.latent
    with torch.no_grad():
        sampling = inner.model_sampling
        sigma = sigma_at(sampling, positions(sampling, DEFAULT, middle)).to(latent.device)
        loss_of(inner, Draw([item], torch.zeros_like(latent), sigma), options)


def unfit(inner, number: int, entry: list, error: Exception) -> str:
    """Returns the sentence for a caption that the model does not take."""
    cross, facts = entry
    pooled = facts.get("pooled_output")
    width = f"{cross.shape[-1]} wide"
    if torch.is_tensor(pooled):
        width += f", its pooled output {pooled.shape[-1]},"
    conf = getattr(inner.model_config, "unet_config", None) or {}
    wanted = next((conf[name] for name in WIDTHS if isinstance(conf.get(name), int)), None)
    takes = "" if wanted is None else f" (which takes {wanted})"
    said = " ".join(str(error).split())[:200]
    return (
        f"positive doesn't suit this model{takes}: caption {number} is {width} "
        f"({type(error).__name__}: {said}). Encode it with the CLIP that belongs to the model."
    )
