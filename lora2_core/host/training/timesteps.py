"""Which noise levels a model is trained at: how timesteps are drawn where nobody chose, and the
shift of flow models, which moves them to more noise the larger a picture is.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import comfy.model_sampling
import torch
from torch import Tensor

from ...training.loss import AUTO, BY_SIZE, LossSettings

FLOW, EVEN = "logit_normal", "uniform"  # how flow models and all others are usually drawn
# steps that Flux.2's shift is meant for: with them it is the host's own 2.02 at 1024 x 1024
USUAL_STEPS = 50


def line(low: tuple[int, float], high: tuple[int, float]) -> Callable[[int], float]:
    """Returns mu(tokens), a line through two points (tokens, mu)."""
    slope = (high[1] - low[1]) / (high[0] - low[0])
    return lambda tokens: low[1] + slope * (tokens - low[0])


def measured(tokens: int) -> float:
    """Returns Flux.2's mu, by the host's own formula."""
    from comfy_extras.nodes_flux import compute_empirical_mu  # older hosts lack it, and Flux.2

    return compute_empirical_mu(tokens, USUAL_STEPS)


# host class of the model -> mu(tokens), as the model is sampled by its makers, and the side of a
# token in latent pixels. Flux and LTX: the host's nodes ModelSamplingFlux and ModelSamplingLTXV;
# Qwen-Image: the scheduler in its own repository.
SHIFTS: dict[str, tuple[Callable[[int], float], int]] = {
    "Flux2": (measured, 1),
    "Lens": (measured, 1),
    "Flux": (line((256, 0.5), (4096, 1.15)), 2),
    "QwenImage": (line((256, 0.5), (8192, 0.9)), 2),
    "LTXV": (line((1024, 0.95), (4096, 2.05)), 1),
}


def shift_of(inner) -> tuple[Callable[[int], float], int] | None:
    """Returns mu(tokens) and the side of a token of a model whose shift depends on the size, None
    for all others.
    """
    if not isinstance(inner.model_sampling, comfy.model_sampling.ModelSamplingFlux):
        return None
    names = (kind.__name__ for kind in type(inner).__mro__)
    return next((SHIFTS[name] for name in names if name in SHIFTS), None)


def usual(model) -> str:
    """Returns how timesteps of a ModelPatcher are usually drawn. Flow models: those in the middle
    most often, then moved by their shift. That depends on the size where the model's makers have it
    so, unless a node of the host has set another.
    """
    sampling = model.get_model_object("model_sampling")
    if not isinstance(sampling, comfy.model_sampling.CONST):
        return EVEN
    own = "model_sampling" not in model.object_patches
    return BY_SIZE if own and shift_of(model.model) is not None else FLOW


def with_usual(settings: LossSettings, model) -> LossSettings:
    """Returns the settings with the sampling that `auto` means for this model. Raises ValueError
    where the chosen one needs a shift that this model does not have.
    """
    if settings.sampling == AUTO:
        return replace(settings, sampling=usual(model))
    if settings.sampling == BY_SIZE and shift_of(model.model) is None:
        raise ValueError(
            f"sampling is {BY_SIZE!r}, but the shift of this model does not depend on the size: "
            "choose auto."
        )
    return settings


def mu_of(inner, latent: Tensor) -> float | None:
    """Returns the shift of a latent [1, channels, ..., height, width], None where it does not
    depend on its size.
    """
    shift = shift_of(inner)
    if shift is None or latent.ndim < 4:
        return None
    mu, side = shift
    frames = latent[0, 0].numel() // (latent.shape[-1] * latent.shape[-2])
    return mu(frames * (latent.shape[-2] // side) * (latent.shape[-1] // side))


def noise_levels(inner, settings: LossSettings, drawn: Tensor, latent: Tensor) -> Tensor:
    """Returns the noise levels [B] of numbers [B] drawn in [0, 1), for latents of this shape."""
    sampling = inner.model_sampling
    where = positions(sampling, settings, drawn)
    mu = mu_of(inner, latent) if settings.sampling == BY_SIZE else None
    if mu is None:
        return sigma_at(sampling, where)
    return comfy.model_sampling.flux_time_shift(mu, 1.0, 1 - where)


def sigma_at(sampling, position: Tensor) -> Tensor:
    """Returns the noise levels at positions in [0, 1): of discrete timesteps where the model has
    them, else of percentages.
    """
    if hasattr(sampling, "num_timesteps") and hasattr(sampling, "sigmas"):
        count, table = sampling.num_timesteps, sampling.sigmas
        timesteps = (position * count).long().clamp(max=count - 1).to(table.device)
        if len(table) == count and not counts_timesteps(sampling):
            return table[timesteps].float()
        return sampling.sigma(timesteps).float()
    return torch.tensor([float(sampling.percent_to_sigma(float(p))) for p in position])


def counts_timesteps(sampling) -> bool:
    """Returns whether sampling.sigma takes the number of a timestep: Stable Cascade's takes a time
    from 0 to 1.
    """
    last = torch.tensor([len(sampling.sigmas) - 1], device=sampling.sigmas.device)
    return torch.allclose(sampling.sigma(last).float(), sampling.sigmas[-1:].float(), rtol=1e-3)


def positions(sampling, settings: LossSettings, drawn: Tensor) -> Tensor:
    """Returns the positions for sigma_at of drawn numbers in [0, 1): timesteps rise with the noise,
    percentages fall.
    """
    if hasattr(sampling, "num_timesteps"):
        return settings.times(drawn)
    return 1 - settings.times(1 - drawn)


def as_sampled(inner, device: torch.device) -> dict:
    """Returns the entry of transformer_options in which the host's sampler says all noise levels of
    a sampling, from the most noise to none: patches of other nodes ask it where a step stands. {}
    for models without such levels.
    """
    levels = getattr(inner.model_sampling, "sigmas", None)
    if not torch.is_tensor(levels):
        return {}
    falling = levels.detach().float().sort(descending=True).values
    return {"sample_sigmas": torch.cat([falling, falling.new_zeros(1)]).to(device)}
