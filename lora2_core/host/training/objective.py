"""L_rec of a host model: the error of its own prediction (eps, v, flow, …) at a random timestep."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass

import comfy.model_sampling
import torch
from comfy.ldm.modules.diffusionmodules.openaimodel import UNetModel
from einops import rearrange
from torch import Tensor, nn

from ...training.attention import EntropyRecord
from ...training.loss import WEIGHTINGS, LossSettings
from ...training.parallel import Processes
from .items import Item, batch_of, by_shape
from .out_of_place import OutOfPlace

DEFAULT = LossSettings()
Renew = Callable[[list[Item]], list[Item]]  # a batch with conditions as they are now


def prediction_scale(sampling, sigma: Tensor, like: Tensor) -> Tensor:
    """|d denoised / d prediction| at sigma: dividing by it turns an error of the denoised latent
    into one of the model's own target, whatever that is, since the denoised latent is linear in
    the prediction.
    """
    return sampling.calculate_denoised(sigma, torch.ones_like(like), torch.zeros_like(like)).abs()


def sigma_at(sampling, position: Tensor) -> Tensor:
    """Noise levels for positions in [0, 1): the discrete timestep where the model has them, else
    the percentage.
    """
    if hasattr(sampling, "num_timesteps") and hasattr(sampling, "sigmas"):
        count = sampling.num_timesteps
        return sampling.sigma(
            (position * count).long().clamp(max=count - 1).to(sampling.sigmas.device)
        ).float()
    return torch.tensor([float(sampling.percent_to_sigma(float(p))) for p in position])


def positions(sampling, settings: LossSettings, drawn: Tensor) -> Tensor:
    """The positions for sigma_at of numbers in [0, 1): timesteps rise with the noise, percentages
    fall.
    """
    if hasattr(sampling, "num_timesteps"):
        return settings.times(drawn)
    return 1 - settings.times(1 - drawn)


def check_loss(settings: LossSettings, sampling) -> None:
    """ValueError where the model's kind has no such loss: a weighting by SNR belongs to models that
    add noise to the latent as it is, and has no agreed form for flow models.
    """
    kinds = comfy.model_sampling.EPS, getattr(comfy.model_sampling, "V_PREDICTION_DDPM", ())
    if settings.weighting != "none" and not isinstance(sampling, kinds):  # before 0.24 only EPS
        raise ValueError(
            f"weighting is {settings.weighting!r}, but this model is neither of eps nor of v "
            "prediction: choose none (for flow models, sampling logit_normal has that part)."
        )


def snr_weights(sampling, settings: LossSettings, sigma: Tensor, like: Tensor) -> Tensor | None:
    """What the squared error of the model's own prediction is multiplied with, [B, 1, ...].

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
    """What a forward pass with gradients needs: UNets write nothing in place."""
    return nullcontext() if isinstance(inner.diffusion_model, UNetModel) else OutOfPlace()


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
    """Mean (weighed) error of the model's own prediction, a scalar; weights [B, 1, ...] are those
    of pictures and places, beside the settings' own of noise levels.
    """
    sampling = inner.model_sampling
    x = sampling.noise_scaling(sigma, noise.clone(), latents)
    with forward_mode(inner):
        denoised = inner.apply_model(x, sigma, transformer_options=options, **conditions)
    error = (denoised - latents) / prediction_scale(sampling, sigma, latents)
    levels = snr_weights(sampling, settings, sigma, latents)
    if weights is not None:
        levels = weights if levels is None else weights * levels
    return settings.mean(error, levels)


@contextmanager
def cross_attention(inner: nn.Module, record: EntropyRecord) -> Iterator[Callable]:
    """Yields an `optimized_attention_override` that records every call made inside a module named
    attn2.

    Lengths alone don't tell cross- from self-attention, so hooks on the modules do; results stay as
    they are.
    """
    inside = False

    def enter(*_):
        nonlocal inside
        inside = True

    def leave(*_):
        nonlocal inside
        inside = False

    def override(func, q, k, v, heads, *args, **kwargs):
        if inside:
            split = (
                (q, k)
                if kwargs.get("skip_reshape")
                else (split_heads(q, heads), split_heads(k, heads))
            )
            record.record(*split)
        return func(q, k, v, heads, *args, **kwargs)

    modules = [m for name, m in inner.named_modules() if name.endswith("attn2")]
    handles = [m.register_forward_pre_hook(enter) for m in modules]
    handles += [m.register_forward_hook(leave) for m in modules]
    try:
        yield override
    finally:
        for handle in handles:
            handle.remove()


def split_heads(x: Tensor, heads: int) -> Tensor:
    """[B, tokens, heads * width] to [B, heads, tokens, width]."""
    return rearrange(x, "b tokens (heads width) -> b heads tokens width", heads=heads)


@dataclass(frozen=True)
class Draw:
    """A batch: pictures that can share a forward pass, noise [B, channels, ...], and a noise level
    for each.
    """

    items: list[Item]
    noise: Tensor
    sigma: Tensor


def make_draw(
    inner,
    items: list[Item],
    batch_size: int,
    settings: LossSettings = DEFAULT,
    renew: Renew | None = None,
) -> Callable[[torch.Generator], Draw]:
    """draw(generator) of a random batch; pictures that share a shape share a batch, each equally
    often. `renew` encodes its captions again, where what encodes them is trained. Of several
    processes that train together each gets its part of the batch.
    """
    processes = Processes.joined()
    part = slice(None) if processes is None else processes.share(batch_size)
    groups = by_shape(items)
    sizes = torch.tensor([float(len(g)) for g in groups])

    def draw(generator: torch.Generator) -> Draw:
        group = groups[int(torch.multinomial(sizes, 1, generator=generator))]
        if batch_size <= len(group):
            picks = torch.randperm(len(group), generator=generator)[:batch_size]
        else:
            picks = torch.randint(len(group), (batch_size,), generator=generator)
        picked = [items[group[i]] for i in picks.tolist()]
        latent = picked[0].latent
        noise = torch.randn((batch_size, *latent.shape[1:]), generator=generator).to(latent)
        drawn = torch.rand(batch_size, generator=generator)
        noise = settings.offset(noise, generator)
        sampling = inner.model_sampling
        sigma = sigma_at(sampling, positions(sampling, settings, drawn)).to(latent.device)
        picked = picked[part]
        return Draw(picked if renew is None else renew(picked), noise[part], sigma[part])

    return draw


def loss_of(inner, draw: Draw, options: dict, settings: LossSettings = DEFAULT) -> Tensor:
    """The loss of a batch. `options` are the model's transformer_options, which are copied."""
    latents, conditions = batch_of(draw.items, list(range(len(draw.items))))
    rest = conditions, dict(options), settings, weights_of(draw.items)
    return denoising_loss(inner, latents, draw.noise, draw.sigma, *rest)


def weights_of(items: list[Item]) -> Tensor | None:
    """The weights of a batch's places [B, 1, ...], None where all count alike."""
    given = [item.weights for item in items if item.weights is not None]
    if not given:
        return None
    ones = torch.ones_like(given[0])
    return torch.cat([ones if item.weights is None else item.weights for item in items])


def make_loss(
    inner,
    items: list[Item],
    batch_size: int,
    options: dict,
    settings: LossSettings = DEFAULT,
    renew: Renew | None = None,
) -> Callable[[torch.Generator], Tensor]:
    """loss_fn(generator) of a random batch."""
    draw = make_draw(inner, items, batch_size, settings, renew)
    return lambda generator: loss_of(inner, draw(generator), options, settings)
