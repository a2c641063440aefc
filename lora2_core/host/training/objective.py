"""The loss L_rec of a host model: the error of its own prediction (eps, v, flow, …) at a random
timestep.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from uuid import uuid4

import comfy.model_sampling
import torch
from torch import Tensor

from ...training.loss import WEIGHTINGS, LossSettings
from ...training.parallel import Processes
from .examples import Example, by_shape, collate
from .one_step import first_input, takes_one_step, target_of
from .out_of_place import writes_allowed
from .overwritten import overwrites, overwriting_allowed
from .streams import levels as levels_of_streams
from .timesteps import noise_levels

DEFAULT = LossSettings()
ONE_CAPTION = uuid4()  # the host's sampler tells captions apart by such ids
# encodes the captions of a batch again, as the text encoder is now
Renew = Callable[[list[Example]], list[Example]]


def prediction_scale(sampling, sigma: Tensor, like: Tensor) -> Tensor:
    """Returns |d denoised / d prediction| at sigma. An error of the denoised latent divided by it
    is the error of the model's own target, whatever that is: the denoised latent is linear in the
    prediction.
    """
    return sampling.calculate_denoised(sigma, torch.ones_like(like), torch.zeros_like(like)).abs()


def check_loss(settings: LossSettings, sampling) -> None:
    """Raises ValueError where the model's kind has no such loss: a weighting by SNR belongs to
    models that add noise to the latent as it is, and has no agreed form for flow models.
    """
    if settings.weighting != "none" and takes_one_step(sampling):
        raise ValueError(
            f"weighting is {settings.weighting!r}, but this model makes one picture of another "
            "without noise: choose none."
        )
    kinds = comfy.model_sampling.EPS, getattr(comfy.model_sampling, "V_PREDICTION_DDPM", ())
    if settings.weighting != "none" and not isinstance(sampling, kinds):  # before 0.24 only EPS
        raise ValueError(
            f"weighting is {settings.weighting!r}, but this model is neither of eps nor of v "
            "prediction: choose none (for flow models, sampling logit_normal has that part)."
        )


def snr_weights(sampling, settings: LossSettings, sigma: Tensor, like: Tensor) -> Tensor | None:
    """Returns the weights [B, 1, ...] of the squared error of the model's own prediction, None
    where all noise levels count alike.

    The weightings are defined on the error of the denoised latent, in units of the data; this turns
    them into min(SNR, gamma) / SNR for eps and min(SNR, gamma) / (SNR + 1) for v prediction.
    """
    weighting = WEIGHTINGS[settings.weighting]
    if weighting is None:
        return None
    first = (slice(None), *(slice(0, 1) for _ in like.shape[1:]))
    scale = prediction_scale(sampling, sigma, like[first]) / sampling.sigma_data
    snr = (sampling.sigma_data / sigma).square().view(scale.shape)
    return weighting(snr, settings.gamma) * scale.square()


def forward_mode(inner) -> AbstractContextManager:
    """Returns the context of a forward pass with gradients."""
    model = inner.diffusion_model
    return overwriting_allowed() if overwrites(model) else writes_allowed(model)()


def denoising_loss(
    inner,
    latents: Tensor,
    noise: Tensor,
    sigma: Tensor,
    conditions: dict,
    options: dict,
    settings: LossSettings = DEFAULT,
    weights: Tensor | None = None,
) -> Tensor:
    """Returns the mean error of the model's own prediction, a scalar. `weights` [B, 1, ...] are
    those of the positions of each picture; the settings add those of noise levels.
    """
    rest = conditions, options, settings, weights
    return settings.mean(*prediction_error(inner, latents, noise, sigma, *rest))


def prediction_error(
    inner,
    latents: Tensor,
    noise: Tensor,
    sigma: Tensor,
    conditions: dict,
    options: dict,
    settings: LossSettings,
    weights: Tensor | None,
) -> tuple[Tensor, Tensor | None]:
    """Returns the error [B, ...] of the model's own prediction, and its weights. noise: the sources
    where the model makes one picture of another in one step.
    """
    sampling = inner.model_sampling
    streams = levels_of_streams(inner, sigma, conditions.get("latent_shapes") or [])
    target = latents
    if streams is not None:
        x = streams.noised(latents, noise)
    elif takes_one_step(sampling):
        x, target = noise, target_of(sampling, sigma, latents)
    else:
        x = sampling.noise_scaling(sigma, noise.clone(), latents)
    with forward_mode(inner):
        denoised = inner.apply_model(x, sigma, transformer_options=options, **conditions)
    if streams is None:
        error = (denoised - target) / prediction_scale(sampling, sigma, latents)
    else:
        error = streams.error(x, denoised, latents, noise)
    levels = snr_weights(sampling, settings, sigma, latents)
    if weights is not None:
        levels = weights if levels is None else weights * levels
    return error, levels


@dataclass(frozen=True)
class Draw:
    """Holds a batch: examples that can share a forward pass, noise [B, channels, ...], and a noise
    level [B] for each.
    """

    examples: list[Example]
    noise: Tensor
    sigma: Tensor

    @classmethod
    def of(cls, inner, examples: list[Example], noise: Tensor, sigma: Tensor) -> Draw:
        """Returns the batch with what the model starts from in the place of noise."""
        sources = [example.source for example in examples]
        return cls(examples, *first_input(inner, sources, noise, sigma))

    def part(self, some: slice) -> Draw:
        """Returns a part of the batch."""
        return Draw(self.examples[some], self.noise[some], self.sigma[some])

    def renewed(self, renew: Renew | None) -> Draw:
        """Returns the batch with captions that are encoded again, where `renew` does that."""
        return self if renew is None else replace(self, examples=renew(self.examples))


def with_noise(
    inner, picked: list[Example], settings: LossSettings, generator: torch.Generator
) -> Draw:
    """Returns a batch of examples of one shape with random noise and noise levels."""
    latent, count = picked[0].latent, len(picked)
    noise = torch.randn((count, *latent.shape[1:]), generator=generator).to(latent)
    drawn = torch.rand(count, generator=generator)
    noise = settings.offset(noise, generator)
    sigma = noise_levels(inner, settings, drawn, latent).to(latent.device)
    return Draw.of(inner, picked, noise, sigma)


def some_of(count: int, wanted: int, generator: torch.Generator) -> list[int]:
    """Returns `wanted` random numbers below `count`: different ones, as long as there are."""
    if wanted <= count:
        return torch.randperm(count, generator=generator)[:wanted].tolist()
    return torch.randint(count, (wanted,), generator=generator).tolist()


def make_draw(
    inner,
    examples: list[Example],
    batch_size: int,
    settings: LossSettings = DEFAULT,
    renew: Renew | None = None,
) -> Callable[[torch.Generator], Draw]:
    """Returns draw(generator), which draws a random batch: examples that share a shape share a
    batch, each equally often. `renew` encodes the captions again, where the text encoder is
    trained. Of several processes that train together each gets its part of the batch.
    """
    processes = Processes.joined()
    part = slice(None) if processes is None else processes.share(batch_size)
    groups = by_shape(examples)
    sizes = torch.tensor([float(len(g)) for g in groups])

    def draw(generator: torch.Generator) -> Draw:
        group = groups[int(torch.multinomial(sizes, 1, generator=generator))]
        picked = [examples[group[i]] for i in some_of(len(group), batch_size, generator)]
        return with_noise(inner, picked, settings, generator).part(part).renewed(renew)

    return draw


def make_draws(
    inner,
    examples: list[Example],
    batch_size: int,
    accumulation: int,
    settings: LossSettings = DEFAULT,
) -> Callable[[torch.Generator], list[Draw]]:
    """Returns draws(generator), which draws the pictures of a step in several batches of at most
    batch_size: batch_size * accumulation of them. Those of one shape are what make_draw draws as
    one batch; of several shapes, the step holds random pictures of all.
    """
    processes, count = Processes.joined(), batch_size * accumulation
    part = slice(None) if processes is None else processes.share(count)
    groups = by_shape(examples)
    whole = make_draw(inner, examples, count, settings)

    def of_several_shapes(generator: torch.Generator) -> Iterator[Draw]:
        picks = some_of(len(examples), count, generator)
        mine = set(range(count)[part])
        for group in groups:
            places = [place for place, pick in enumerate(picks) if pick in group]
            if not places:
                continue
            draw = with_noise(inner, [examples[picks[p]] for p in places], settings, generator)
            kept = [i for i, place in enumerate(places) if place in mine]
            if kept:
                yield Draw([draw.examples[i] for i in kept], draw.noise[kept], draw.sigma[kept])

    def draws(generator: torch.Generator) -> list[Draw]:
        found = [whole(generator)] if len(groups) == 1 else list(of_several_shapes(generator))
        return [
            draw.part(slice(first, first + batch_size))
            for draw in found
            for first in range(0, len(draw.examples), batch_size)
        ]

    return draws


def step_options(options: dict, sigma: Tensor) -> dict:
    """Returns a copy of the model's transformer_options with what the host's sampler adds in every
    step, which patches of other nodes read: that the captions are positive ones, and the noise
    levels [B].
    """
    return {**options, "cond_or_uncond": [0], "uuids": [ONE_CAPTION], "sigmas": sigma}


def loss_of(inner, draw: Draw, options: dict, settings: LossSettings = DEFAULT) -> Tensor:
    """Returns the loss of a batch. `options` are the model's transformer_options."""
    latents, conditions = collate(draw.examples)
    options = step_options(options, draw.sigma)
    rest = conditions, options, settings, weights_of(draw.examples)
    return denoising_loss(inner, latents, draw.noise, draw.sigma, *rest)


def losses_of(inner, draw: Draw, options: dict, settings: LossSettings = DEFAULT) -> Tensor:
    """Returns the loss of each picture of a batch, [B]."""
    latents, conditions = collate(draw.examples)
    options = step_options(options, draw.sigma)
    rest = conditions, options, settings, weights_of(draw.examples)
    error, weights = prediction_error(inner, latents, draw.noise, draw.sigma, *rest)
    split = [None] * len(error) if weights is None else weights.split(1)
    return torch.stack([settings.mean(e, w) for e, w in zip(error.split(1), split, strict=True)])


def weights_of(examples: list[Example]) -> Tensor | None:
    """Returns the weights [B, 1, ...] of a batch's positions, None where all count alike."""
    given = [example.weights for example in examples if example.weights is not None]
    if not given:
        return None
    ones = torch.ones_like(given[0])
    return torch.cat([ones if e.weights is None else e.weights for e in examples])


def make_loss(
    inner,
    examples: list[Example],
    batch_size: int,
    options: dict,
    settings: LossSettings = DEFAULT,
    renew: Renew | None = None,
) -> Callable[[torch.Generator], Tensor]:
    """Returns loss_fn(generator) of a random batch."""
    draw = make_draw(inner, examples, batch_size, settings, renew)
    return lambda generator: loss_of(inner, draw(generator), options, settings)
