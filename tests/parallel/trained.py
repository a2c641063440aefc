"""One process of a training: alone, or one of several with the variables that torchrun sets. Writes
what it has learned.

    python -m tests.hosting.inprocess tests.parallel.trained FOLDER MODE STEPS BATCH
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

import torch
import torch.distributed as dist


def train(folder: Path, mode: str, steps: int, batch: int) -> None:
    """Trains on the playground's owl; files in the folder have the process's number."""
    from lora2_core import save
    from lora2_core.host.playground import load_playground
    from lora2_core.host.training.choices import Choices
    from lora2_core.host.training.run import train_on
    from lora2_core.playground import asset, subjects

    rate = 5e-5 if mode == "paper" else 5e-3  # with paper's init 5e-3 is chaos: it shows rounding
    choices = {"steps": steps, "batch_size": batch, "learning_rate": rate, "mode": mode}
    ranks = []
    with torch.inference_mode():
        model, clip, vae = load_playground(asset.load())
        images, captions = subjects.examples("owl", 8)
        latents = [{"samples": vae.encode(image[None])} for image in images]
        positive = [clip.encode_from_tokens_scheduled(clip.tokenize(text)) for text in captions]
        run = Choices.of(choices | {"target_rank": 4, "max_rank": 16})
        told = train_on(model, latents, positive, run, lambda step: ranks.append(step.ranks))
    if told.stopped_by is not None:
        raise told.stopped_by
    name = f"{os.environ.get('RANK', 'alone')}"
    save(folder / f"{name}.safetensors", told.lora, dtype="fp32")
    facts = {"losses": told.losses, "ranks": ranks}
    (folder / f"{name}.json").write_text(json.dumps(facts))


def main() -> None:
    folder, mode, steps, batch = sys.argv[1:]
    torch.set_num_threads(1)
    if "RANK" in os.environ:
        dist.init_process_group("gloo")
    train(Path(folder), mode, int(steps), int(batch))
    if dist.is_initialized():
        dist.destroy_process_group()


if __name__ == "__main__":
    main()
