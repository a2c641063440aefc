"""Pictures for the benchmarks, and the denoising loss on them: the model's own prediction error at
fixed noise and timesteps.
"""

from __future__ import annotations

from pathlib import Path

import torch

from lora2_core.host.training.examples import collate
from lora2_core.host.training.loan import on_loan
from lora2_core.host.training.objective import denoising_loss
from lora2_core.host.training.timesteps import sigma_at
from lora2_core.playground.subjects import BACKGROUNDS, SUBJECTS, caption, compose
from tests.host.examples import examples_of
from tests.playground.pictures import load

TRAINED, LEVELS = 8, 10
Pictures = tuple[list[dict], list[list]]


def encode(clip, vae, images: list[torch.Tensor], captions: list[str]) -> Pictures:
    """Latents and conditioning, one of each a picture."""
    latents = [{"samples": vae.encode(image[None])} for image in images]
    return latents, [clip.encode_from_tokens_scheduled(clip.tokenize(text)) for text in captions]


def own_pictures(folder: Path, count: int = 64) -> tuple[list[torch.Tensor], list[str]]:
    """Random pictures that the base was trained on."""
    pictures, rows = load(folder)
    base = [i for i, row in enumerate(rows) if row[0] not in SUBJECTS]
    picks = torch.randperm(len(base), generator=torch.Generator().manual_seed(0))[:count].tolist()
    colours = list(BACKGROUNDS)
    chosen = [(base[i], colours[n % len(colours)]) for n, i in enumerate(picks)]
    images = [torch.from_numpy(compose(pictures[i], b)).float() / 255 for i, b in chosen]
    return images, [caption(rows[i][0], rows[i][1], b) for i, b in chosen]


def held_out_loss(model, pictures: Pictures) -> float:
    """Mean prediction error over all pictures and LEVELS timesteps, the same noise at every
    call.
    """
    generator = torch.Generator().manual_seed(0)
    with on_loan(model) as inner, torch.no_grad():
        items, total = examples_of(model, inner, *pictures), 0.0
        latents, conditions = collate(items)
        for level in range(LEVELS):
            position = torch.full((len(items),), (level + 0.5) / LEVELS)
            sigma = sigma_at(inner.model_sampling, position)
            noise = torch.randn(latents.shape, generator=generator)
            total += float(denoising_loss(inner, latents, noise, sigma, conditions, {}))
    return total / LEVELS
