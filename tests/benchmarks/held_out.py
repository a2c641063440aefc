"""Held-out loss on the playground: base, plain LoRA and adaptive ranks, on unseen pictures.

`nox -s held-out` trains on eight pictures of a subject that the base has never seen and prints the
denoising loss (the model's own prediction error, fixed noise and timesteps) on

- the same subject on the backgrounds it was not trained on, and
- pictures of the base model's own labels, so that forgetting shows.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch

from lora2_core import RankSettings, TrainSettings
from lora2_core.host.apply import apply_lora
from lora2_core.host.dataset import batch_of, make_items
from lora2_core.host.objective import denoising_loss, sigma_at
from lora2_core.host.playground import load_playground
from lora2_core.host.run import HostRun, train_on
from lora2_core.host.session import on_loan
from lora2_core.playground import asset
from lora2_core.playground.subjects import (
    BACKGROUNDS,
    MOST_PICTURES,
    SUBJECTS,
    caption,
    compose,
    examples,
)
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
        items, total = make_items(model, inner, *pictures), 0.0
        latents, conditions = batch_of(items, list(range(len(items))))
        for level in range(LEVELS):
            position = torch.full((len(items),), (level + 0.5) / LEVELS)
            sigma = sigma_at(inner.model_sampling, position)
            noise = torch.randn(latents.shape, generator=generator)
            total += float(denoising_loss(inner, latents, noise, sigma, conditions, {}))
    return total / LEVELS


@torch.inference_mode()
def main() -> None:
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("folder", type=Path)
    options.add_argument(
        "--subjects", nargs="+", default=["owl", "fox", "rocket"], choices=SUBJECTS
    )
    options.add_argument("--steps", type=int, default=400)
    options.add_argument("--ranks", type=int, nargs="+", default=[4, 8])
    args = options.parse_args()
    model, clip, vae = load_playground(asset.load())
    own = encode(clip, vae, *own_pictures(args.folder))
    print(f"{'subject':18} {'adapter':22} {'MB':>6} {'ranks':>9} {'unseen':>8} {'own labels':>10}")
    for subject in args.subjects:
        images, captions = examples(subject, MOST_PICTURES)
        train_set = encode(clip, vae, images[:TRAINED], captions[:TRAINED])
        unseen = encode(clip, vae, images[TRAINED:], captions[TRAINED:])

        def row(name: str, patched, lora=None, subject=subject, unseen=unseen) -> None:
            size, ranks = f"{lora.megabytes():.3f}" if lora else "-", "-"
            if lora:
                ranks = f"{min(lora.ranks.values())} to {max(lora.ranks.values())}"
            losses = f"{held_out_loss(patched, unseen):8.4f} {held_out_loss(patched, own):10.4f}"
            print(f"{subject:18} {name:22} {size:>6} {ranks:>9} {losses}", flush=True)

        row("base model", model)
        for rank in args.ranks:
            for mode in ("fixed", "adaptive"):
                settings = RankSettings(mode=mode, target_rank=rank, max_rank=32)
                run = HostRun(
                    settings, TrainSettings(steps=args.steps, learning_rate=2e-3), batch_size=8
                )
                lora = train_on(model, *train_set, run, lambda step: None).lora
                row(f"{mode}, rank {rank}", apply_lora(model, None, lora, 1.0, 1.0)[0], lora)


if __name__ == "__main__":
    main()
