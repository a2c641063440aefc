"""Models that make one picture of another in one step, such as depth or a mask of a photograph:
Lotus, FlowRVS. They get the source where others get noise, and the result is their prediction.
"""

from __future__ import annotations

import comfy.model_sampling
import comfy.sample
import comfy.samplers
import torch
from torch import Tensor

KINDS = tuple(
    getattr(comfy.model_sampling, name)
    for name in ("IMG_TO_IMG", "IMG_TO_IMG_FLOW")
    if hasattr(comfy.model_sampling, name)  # older hosts lack the second
)


def takes_one_step(sampling) -> bool:
    """Returns whether a model of this sampling makes one picture of another in one step."""
    return isinstance(sampling, KINDS)


def divided(entry: list) -> tuple[Tensor | None, list]:
    """Returns the first reference latent of a caption's entry, and the entry without any."""
    facts = {**entry[1]}
    references = facts.pop("reference_latents", None) or [None]
    return references[0], [entry[0], facts]


def take_source(inner, entry: list, latent: Tensor) -> tuple[Tensor | None, list]:
    """Returns the source of a picture [1, channels, ..., height, width] in the model's own scale,
    which is the first reference latent of its caption, and the caption without it; None and the
    caption as it is for all other models. Raises ValueError where there is none, or one of another
    shape than `latent`.
    """
    if not takes_one_step(inner.model_sampling):
        return None, entry
    given, rest = divided(entry)
    if given is None:
        raise ValueError(
            "This model makes one picture of another in one step, such as depth or a mask of a "
            "photograph, and learns from pairs: give each picture its source, as in "
            "owl_source.png beside owl.png for LoRA2 Dataset."
        )
    source = inner.process_latent_in(given.clone().to(latent))
    if source.shape != latent.shape:
        sizes = (" x ".join(map(str, each.shape[1:])) for each in (source, latent))
        raise ValueError(
            "This model makes one picture of another in one step, so both have one size: a source "
            "is {} in the latent, its picture {}.".format(*sizes)
        )
    return source, rest


def first_input(
    inner, sources: list[Tensor | None], noise: Tensor, sigma: Tensor
) -> tuple[Tensor, Tensor]:
    """Returns what the model's prediction starts from [B, ...], and the noise levels [B] that it is
    told: the sources at the highest level where the model takes one step, else as they are.
    """
    if not takes_one_step(inner.model_sampling):
        return noise, sigma
    given = torch.cat([source for source in sources if source is not None])
    highest = torch.full_like(sigma, float(inner.model_sampling.sigma_max))
    return given, highest


def target_of(sampling, sigma: Tensor, latents: Tensor) -> Tensor:
    """Returns what such a model is to predict, so that its sampling ends with these latents."""
    return sampling.inverse_noise_scaling(torch.zeros_like(sigma), latents)


def sample(patcher, positive: list) -> Tensor:
    """Returns the latent that a model with its patches makes of the source in a CONDITIONING, by
    the host's sampler: one step from the highest noise level, without noise.
    """
    source, entry = divided(positive[0])
    highest = float(patcher.get_model_object("model_sampling").sigma_max)
    sampler, sigmas = comfy.samplers.sampler_object("euler"), torch.tensor([highest, 0.0])
    return comfy.sample.sample_custom(
        patcher, torch.zeros_like(source), 1.0, sampler, sigmas, [entry], [entry], source,
        disable_pbar=True,
    )  # fmt: skip
