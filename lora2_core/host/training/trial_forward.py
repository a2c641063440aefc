"""Tries whether a model can compute with what it is given, before the first step."""

from __future__ import annotations

import re
from dataclasses import replace

import torch

from .examples import UNFIT, Example
from .memory import out_of_memory
from .objective import DEFAULT, Draw, loss_of
from .timesteps import noise_levels

WIDTHS = ("context_dim", "context_in_dim")  # of captions, in the host's configuration of a model
# in what torch says of tensors that don't fit together
MISFIT = re.compile(r"shape|size|dimension|expected|channels|broadcast|match", re.IGNORECASE)
REFERENCES = "ref_latents", "reference_latent"  # conditions that hosts make of them
# in transformer_options: what other nodes put into the model
PATCHES = ("patches", "patches_replace", "wrappers")
LONGEST_REASON = 200  # characters of torch's own sentence, so that ours is read to its end


def kind_of(example: Example) -> tuple:
    """Returns what the model must be able to take: names, kinds and widths of the conditions."""
    kinds = []
    for name, condition in sorted(example.conditions.items()):
        tensor = getattr(condition, "cond", None)
        shape = tuple(tensor.shape) if torch.is_tensor(tensor) else ()
        width = shape[1:2] if len(shape) > 3 else shape[-1:]  # channels of pictures
        kinds.append((name, type(condition).__name__, len(shape), width))
    return tuple(kinds)


def check_model_takes(inner, examples: list[Example], captions: list[list], options: dict) -> None:
    """Raises ValueError where the model can't compute with an example: runs the model once for each
    kind of conditions, on the smallest picture of the kind. `captions`: an entry for each example.
    """
    kinds: dict[tuple, list[int]] = {}
    for index, example in enumerate(examples):
        kinds.setdefault(kind_of(example), []).append(index)
    for indices in kinds.values():
        smallest = min((examples[i] for i in indices), key=lambda e: e.latent.numel())
        check_one_tensor(smallest)
        try:
            loss = forward(inner, smallest, options)
            check_reference_counts(inner, smallest, options, loss)
        except Unused as reason:
            raise ValueError(str(reason)) from reason
        except ZeroDivisionError as error:  # PixArt counts in 64ths of the sides
            sides = " x ".join(map(str, smallest.latent.shape[2:]))
            raise ValueError(
                f"This model can't compute with a latent of {sides}: use larger pictures."
            ) from error
        except UNFIT as error:
            if out_of_memory(error):
                return
            check_patches(inner, smallest, options, error)
            if isinstance(error, RuntimeError) and not MISFIT.search(str(error)):
                raise  # the device's fault, or the model's own
            first = indices[0]
            check_several_tensors(smallest, error)
            raise ValueError(misfit(inner, first + 1, captions[first], error)) from error


def check_reference_counts(inner, example: Example, options: dict, loss: float) -> None:
    """Raises ValueError where the caption has reference latents that the model does not use, as
    models of text to image do. loss: of the example with them.
    """
    if "reference_latents" not in example.facts:
        return
    kept = {k: v for k, v in example.conditions.items() if not k.startswith(REFERENCES)}
    without = forward(inner, replace(example, conditions=kept), options)
    if without == loss:
        raise Unused(
            "This model does not use the reference latents of positive: train an edit model, or "
            "connect Edit Model Reference Method between LoRA2 Dataset and positive."
        )


def check_patches(inner, example: Example, options: dict, error: Exception) -> None:
    """Raises ValueError where the model can compute with the example, but not as other nodes have
    patched it.
    """
    bare = {name: value for name, value in options.items() if name not in PATCHES}
    if not any(options.get(name) for name in PATCHES):
        return
    try:
        forward(inner, example, bare)
    except Exception:  # the patches are not at fault, or not alone
        return
    raise ValueError(
        f"What another node has put into this model fails in training ({shortened(error)}): "
        "connect the model without that node."
    ) from error


def shortened(error: Exception) -> str:
    """Returns the kind of an error and its first words."""
    return f"{type(error).__name__}: {' '.join(str(error).split())[:LONGEST_REASON]}"


class Unused(Exception):
    """Says that something which was given does not count; its text is the reason."""


def check_one_tensor(example: Example) -> None:
    """Raises ValueError where a model that takes one tensor in a latent got several."""
    if len(example.shapes) > 1 and "latent_shapes" not in example.conditions:
        raise ValueError(
            f"The latents hold {len(example.shapes)} tensors, such as video with audio, but this "
            "model takes one: connect the LATENT of the model's own VAE."
        )


def check_several_tensors(example: Example, error: Exception) -> None:
    """Raises ValueError where a model that takes several tensors in a latent got one: the second is
    what it could not find.
    """
    takes_several = "latent_shapes" in example.conditions
    if takes_several and len(example.shapes) == 1 and isinstance(error, IndexError):
        raise ValueError(
            "This model learns from latents of several tensors, such as video with audio: join "
            "them by the host's node for it (LTXVConcatAVLatent, or the model's own)."
        ) from error


def forward(inner, example: Example, options: dict) -> float:
    """Returns the loss in the middle of the noise levels, without gradients."""
    middle, latent = torch.tensor([0.5]), example.latent
    with torch.no_grad():
        sigma = noise_levels(inner, DEFAULT, middle, latent).to(latent.device)
        draw = Draw.of(inner, [example], torch.zeros_like(latent), sigma)
        return float(loss_of(inner, draw, options))


def misfit(inner, number: int, entry: list, error: Exception) -> str:
    """Returns the sentence for a caption that the model does not take."""
    cross, facts = entry
    pooled = facts.get("pooled_output")
    width = f"{cross.shape[-1]} wide"
    if torch.is_tensor(pooled):
        width += f", its pooled output {pooled.shape[-1]},"
    conf = getattr(inner.model_config, "unet_config", None) or {}
    wanted = next((conf[name] for name in WIDTHS if isinstance(conf.get(name), int)), None)
    takes = "" if wanted is None else f" (which takes {wanted})"
    return (
        f"positive doesn't suit this model{takes}: caption {number} is {width} "
        f"({shortened(error)}). Encode it with the CLIP that belongs to the model."
    )
