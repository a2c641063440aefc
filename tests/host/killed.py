"""A training in a process of its own, to be killed: `python -m tests.host.killed OUTPUT`.

Says every step on a line, and writes a checkpoint after each.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

from tests.hosting import inprocess

FIELDS = {
    "steps": 12, "learning_rate": 1e-2, "target_rank": 4, "max_rank": 16, "batch_size": 2,
    "seed": 3, "targets": "attn2", "start_rank": 8,
}  # fmt: skip
KEEP = {"checkpoint_every": 1, "keep_last": 2, "checkpoint_name": "killed"}


def main(output: str) -> None:
    """Trains on the playground's owl as the tests do."""
    inprocess.enter(Path(os.environ["LORA2_HOST"]))
    import folder_paths
    import torch

    from lora2_core.host.playground import load_playground
    from lora2_core.host.training.choices import Choices
    from lora2_core.host.training.run import train_on
    from lora2_core.playground import asset, subjects

    folder_paths.set_output_directory(output)
    with torch.inference_mode():
        model, clip, vae = load_playground(asset.load())
        images, captions = subjects.examples("owl", 4)
        latents = [{"samples": vae.encode(image[None])} for image in images]
        positive = [clip.encode_from_tokens_scheduled(clip.tokenize(text)) for text in captions]
        train_on(model, latents, positive, Choices.of(FIELDS | KEEP), lambda step: say(step.index))


def say(index: int) -> None:
    """One line, at once."""
    sys.stdout.write(f"step {index}\n")
    sys.stdout.flush()


if __name__ == "__main__":
    main(sys.argv[1])
