"""Training examples: each picture with its caption as the model takes them, and their batches."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import comfy.sampler_helpers
import comfy.samplers
import torch
from torch import Tensor

from .latents import Latent, memory_of
from .masks import expand_weights
from .memory import out_of_memory
from .one_step import take_source
from .pictures import Pictures

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
    ZeroDivisionError,
)


@dataclass(frozen=True)
class Example:
    """Holds one picture with its caption.

    latent: [1, channels, ..., height, width] in the model's own scale; of video with audio
        [1, 1, values].
    shapes: those of the tensors in it, where there are several.
    conditions: what the model gets beside it, by name.
    weights: how much each position counts [1, 1, ..., height, width], None where all count alike.
    facts: the dict of the caption's entry.
    of_class: the same picture with the caption of its class, None where nothing is preserved.
    source: what the picture is made of [1, channels, ..., height, width], for models that make one
        picture of another in one step; None for all others.
    """

    latent: Tensor
    conditions: dict
    weights: Tensor | None = None
    facts: dict = field(default_factory=dict)
    shapes: tuple[tuple[int, ...], ...] = ()
    of_class: Example | None = None
    source: Tensor | None = None


def make_examples(model, inner, pictures: Pictures) -> list[Example]:
    """Returns an example for each picture, on the model's device in fp32; a picture or a caption
    that comes more than once is stored once. `inner` is the model on loan, gradients possible.
    Raises ValueError where the model can't take a caption.
    """
    device = model.load_device
    latents: dict[tuple, Tensor] = {}
    entries: dict[int, list] = {}
    made: dict[tuple, Example] = {}
    examples = []
    for number, (picture, given) in enumerate(
        zip(pictures.latents, pictures.captions, strict=True), 1
    ):
        memory, caption = (memory_of(picture.values), picture.shapes), id(given)
        if (memory, caption) not in made:
            if memory not in latents:
                values = picture.values.clone().to(device, torch.float32)
                latents[memory] = inner.process_latent_in(values)
            if caption not in entries:
                entries[caption] = normal_copy(given)
            latent = latents[memory]
            source, entry = take_source(inner, entries[caption], latent)
            conditions = encode_or_refuse(inner, number, entry, latent, picture)
            made[memory, caption] = Example(
                latent, conditions, facts=entry[1], shapes=picture.shapes, source=source
            )
        examples.append(made[memory, caption])
    return with_weights(examples, pictures.mask_weights)


def encode_or_refuse(inner, number: int, entry: list, latent: Tensor, picture: Latent) -> dict:
    """Returns the conditions of the caption of this number. Raises ValueError where the model can't
    take it.
    """
    try:
        return encode(inner, entry, latent, picture.shapes)
    except UNFIT as error:
        if out_of_memory(error):
            raise
        raise ValueError(
            f"positive doesn't suit this model (caption {number}, {type(error).__name__}: "
            f"{error}): encode it with the CLIP that belongs to the model."
        ) from error


def with_weights(examples: list[Example], weights: list[Tensor | None]) -> list[Example]:
    """Returns the examples with the weights [1, 1, height, width] of their masks."""
    return [
        example if w is None else replace(example, weights=expand_weights(w, example.latent))
        for example, w in zip(examples, weights, strict=True)
    ]


def encode(inner, entry: list, latent: Tensor, shapes: tuple = ()) -> dict:
    """Returns the conditions by name that the model makes of a caption for a latent, whose tensors
    have these shapes.
    """
    conds = comfy.sampler_helpers.convert_cond([entry])
    encoded = comfy.samplers.encode_model_conds(
        inner.extra_conds, conds, latent, latent.device, "positive", latent_image=latent, seed=0,
        latent_shapes=[torch.Size(shape) for shape in shapes] or [latent.shape],
    )  # fmt: skip
    return {k: v.process_cond(1, area=None) for k, v in encoded[0]["model_conds"].items()}


def normal_copy(value):
    """Returns a copy of nested dicts, lists and tuples whose tensors are normal ones: autograd
    refuses what the executor made in inference mode.
    """
    if torch.is_tensor(value):
        return value.clone()
    if isinstance(value, dict):
        return {k: normal_copy(v) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return type(value)(normal_copy(v) for v in value)
    return value


def by_shape(examples: list[Example]) -> list[list[int]]:
    """Returns the indices of examples that can share a batch, a list for each kind: the same latent
    shape, the same shapes of conditions, and the same values of conditions that are no tensors,
    such as how many tokens a caption has.
    """

    def alike(one: Example, other: Example) -> bool:
        mine, theirs = one.conditions, other.conditions
        return (
            one.latent.shape == other.latent.shape
            and mine.keys() == theirs.keys()
            and all(
                v.size() == theirs[k].size() and v.can_concat(theirs[k]) for k, v in mine.items()
            )
        )

    groups: list[list[int]] = []
    for index, example in enumerate(examples):
        group = next((g for g in groups if alike(examples[g[0]], example)), None)
        if group is None:
            groups.append(group := [])
        group.append(index)
    return groups


def collate(examples: list[Example]) -> tuple[Tensor, dict[str, Tensor]]:
    """Returns a batch of examples: latents [B, ...] and the model's keyword arguments."""
    latents = torch.cat([example.latent for example in examples])
    device = latents.device
    conditions = comfy.samplers.cond_cat([example.conditions for example in examples])
    return latents, {k: v.to(device) if torch.is_tensor(v) else v for k, v in conditions.items()}
