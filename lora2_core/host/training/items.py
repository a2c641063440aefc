"""What to learn from: the graph's latents and conditioning as one item a picture, checked before
any training.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import comfy.sampler_helpers
import comfy.samplers
import torch
from einops import rearrange
from torch import Tensor

from .captions import check_caption
from .memory import out_of_memory

# what a model raises that can't take its conditions
UNFIT = (
    AssertionError,
    AttributeError,
    IndexError,
    KeyError,
    NotImplementedError,
    RuntimeError,
    TypeError,
    ValueError,
)


@dataclass(frozen=True)
class Item:
    """One picture: latent [1, channels, ...] in the model's own scale, its conditions by name, how
    much each place of it counts [1, 1, ...], None for all alike, and what its conditioning says
    beside the encoded text.
    """

    latent: Tensor
    conditions: dict
    weights: Tensor | None = None
    facts: dict = field(default_factory=dict)


def flatten_latents(latents: list[dict], model) -> list[Tensor]:
    """Every picture of a list of LATENTs as [1, channels, ...]; ValueError for none, NaN or foreign
    channels.
    """
    pictures = []
    for number, latent in enumerate(latents if isinstance(latents, list) else [latents], 1):
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
        pictures += list(samples.split(1))
    if not pictures:
        raise ValueError(
            "There are no latents to train on: connect at least one picture through VAE Encode."
        )
    form = model.get_model_object("latent_format")
    channels, dimensions = form.latent_channels, 2 + getattr(form, "latent_dimensions", 2)
    if dimensions == 5:  # a picture is one frame to models that know videos
        pictures = [rearrange(p, "b c h w -> b c 1 h w") if p.ndim == 4 else p for p in pictures]
    for index, picture in enumerate(pictures, 1):
        if picture.ndim != dimensions:
            raise ValueError(
                f"Latent {index} has {picture.ndim} dimensions, but this model's latents have "
                f"{dimensions}: encode the pictures with the VAE that belongs to the model."
            )
        if picture.shape[1] != channels:
            raise ValueError(
                f"Latent {index} has {picture.shape[1]} channels, but this model's latents have "
                f"{channels}: "
                "encode the pictures with the VAE that belongs to the model."
            )
        if not torch.isfinite(picture).all():
            raise ValueError(
                f"Latent {index} holds NaN or infinite values: check the picture and the VAE."
            )
    return pictures


def is_condition(cross: object, facts: object) -> bool:
    """Whether these are the two parts of a CONDITIONING: what the text encoder gave [B, tokens,
    width], and facts by name.
    """
    return torch.is_tensor(cross) and cross.ndim >= 2 and isinstance(facts, dict)


def flatten_conditioning(positive: list[list], count: int) -> list[list]:
    """One conditioning entry a picture: as many as there are pictures, or one for all."""
    positive = positive if isinstance(positive, list) else [positive]
    told = [given if isinstance(given, list) else [given] for given in positive]
    entries = [entry for given in told for entry in given]
    for entry in entries:
        if not (isinstance(entry, (list, tuple)) and len(entry) == 2 and is_condition(*entry)):
            raise ValueError(
                "positive holds something that is no CONDITIONING: connect a CLIP Text Encode or a "
                "dataset node."
            )
    if not entries:
        raise ValueError(
            "positive is empty: connect a CLIP Text Encode or the conditioning of a dataset node."
        )
    seen: set[int] = set()  # one text of many pictures is looked at once
    for number, given in enumerate(told, 1):
        if not given:
            raise ValueError(f"Caption {number} is empty: connect a CLIP Text Encode.")
        if id(given[0]) not in seen or len(given) > 1:
            check_caption(number, given)
        seen.add(id(given[0]))
    if len(entries) == 1:
        return entries * count
    if len(entries) != count:
        raise ValueError(
            f"There are {count} latents but {len(entries)} captions: give one caption for all, or "
            "one for each picture."
        )
    return entries


def make_items(model, inner, latents: list[dict], positive: list[list]) -> list[Item]:
    """Latents and conditions placed and cast; what comes more than once is kept once. `inner` is
    the model on loan, gradients possible.
    """
    pictures = flatten_latents(latents, model)
    entries = flatten_conditioning(positive, len(pictures))
    device = model.load_device
    placed: dict[tuple, Tensor] = {}
    owned: dict[int, list] = {}
    made: dict[tuple, Item] = {}
    items = []
    for number, (picture, entry) in enumerate(zip(pictures, entries, strict=True), 1):
        place, caption = place_of(picture), id(entry)
        if (place, caption) not in made:
            if place not in placed:
                placed[place] = inner.process_latent_in(picture.clone().to(device, torch.float32))
            if caption not in owned:
                owned[caption] = own(entry)
            try:
                conditions = encode(inner, owned[caption], placed[place], device)
            except UNFIT as error:
                if out_of_memory(error):
                    raise
                raise ValueError(
                    f"positive doesn't suit this model (caption {number}, {type(error).__name__}: "
                    f"{error}): encode it with the CLIP that belongs to the model."
                ) from error
            made[place, caption] = Item(placed[place], conditions, facts=owned[caption][1])
        items.append(made[place, caption])
    return items


def place_of(tensor: Tensor) -> tuple:
    """Where a tensor's values lie: the same for all views of the same values."""
    return tensor.device, tensor.data_ptr(), tensor.dtype, tensor.shape, tensor.stride()


def encode(inner, entry: list, latent: Tensor, device) -> dict:
    """The conditions by name that the model makes of one conditioning entry for a latent."""
    conds = comfy.sampler_helpers.convert_cond([entry])
    encoded = comfy.samplers.encode_model_conds(
        inner.extra_conds, conds, latent, device, "positive", latent_image=latent, seed=0
    )
    return {k: v.process_cond(1, area=None) for k, v in encoded[0]["model_conds"].items()}


def own(value):
    """A copy whose tensors are normal ones: what the executor made in inference mode can't meet
    autograd.
    """
    if torch.is_tensor(value):
        return value.clone()
    if isinstance(value, dict):
        return {k: own(v) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return type(value)(own(v) for v in value)
    return value


def by_shape(items: list[Item]) -> list[list[int]]:
    """Indices of the items that can share a batch: the same latent shape, the same shapes of
    conditions, and the same values of those that are no tensors (how many tokens a caption has).
    """

    def alike(one: Item, other: Item) -> bool:
        mine, theirs = one.conditions, other.conditions
        return (
            one.latent.shape == other.latent.shape
            and mine.keys() == theirs.keys()
            and all(
                v.size() == theirs[k].size() and v.can_concat(theirs[k]) for k, v in mine.items()
            )
        )

    groups: list[list[int]] = []
    for index, item in enumerate(items):
        group = next((g for g in groups if alike(items[g[0]], item)), None)
        if group is None:
            groups.append(group := [])
        group.append(index)
    return groups


def batch_of(items: list[Item], indices: list[int]) -> tuple[Tensor, dict[str, Tensor]]:
    """Latents [B, ...] and the model's keyword arguments of some items."""
    latents = torch.cat([items[i].latent for i in indices])
    device = latents.device
    conditions = comfy.samplers.cond_cat([items[i].conditions for i in indices])
    return latents, {k: v.to(device) if torch.is_tensor(v) else v for k, v in conditions.items()}
