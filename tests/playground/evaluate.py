"""How good the playground is: a contact sheet of 48, and how often samples are recognised.

`nox -s evaluate-playground` draws 500 random prompts of the base labels with the host's sampler; a
small classifier, trained on the same pictures, says which label, style and background it sees. A
second line asks it about the pictures themselves, passed through the autoencoder: the most that
could be reached.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import torch
from einops import rearrange
from PIL import Image

from lora2_core.host.playground import load_playground
from lora2_core.playground import asset
from lora2_core.playground.subjects import BACKGROUNDS, STYLES, SUBJECTS, caption, compose
from tests.playground.classifier import Judge, judged, train_judge
from tests.playground.pictures import load, to_images
from tests.playground.sampling import sample

SHEET = (
    "koala", "hamburger", "blue heart", "soccer ball", "top hat", "pizza",
    "tiger face", "frog", "penguin", "banana", "crab", "ice cream",
)  # fmt: skip


def contact_sheet(model, clip, vae, path: Path) -> None:
    """Twelve labels in the four styles, backgrounds in turn: 48 samples."""
    colours = list(BACKGROUNDS)
    prompts = [
        caption(label, style, colours[(i + 3 * j) % 10])
        for j, style in enumerate(STYLES)
        for i, label in enumerate(SHEET)
    ]
    images = sample(model, clip, vae, prompts)
    sheet = (
        rearrange(images, "(r c) h w d -> (r h) (c w) d", c=len(SHEET))
        .mul(255)
        .round()
        .byte()
        .numpy()
    )
    Image.fromarray(sheet).resize(
        (sheet.shape[1] * 3, sheet.shape[0] * 3), Image.Resampling.NEAREST
    ).save(path)


class Base:
    """The pictures that the base was trained on, on every background, and their classes."""

    def __init__(self, folder: Path):
        self.folder, (self.pictures, rows) = folder, load(folder)
        self.picks = [i for i, row in enumerate(rows) if row[0] not in SUBJECTS]
        self.names = sorted({rows[i][0] for i in self.picks})
        self.labels = [(rows[i][0], rows[i][1], b) for i in self.picks for b in BACKGROUNDS]
        colours = list(BACKGROUNDS)
        self.targets = torch.tensor(
            [[self.names.index(n), STYLES.index(s), colours.index(b)] for n, s, b in self.labels]
        )

    def images(self) -> torch.Tensor:
        """[N, 3, 32, 32] in [-1, 1], in the order of labels and targets."""
        pictures = self.pictures[self.picks]
        composed = np.stack([compose(pictures, b) for b in BACKGROUNDS], 1)
        return to_images(composed.reshape(-1, 32, 32, 3))

    def judge(self) -> Judge:
        """The classifier of these pictures, trained at the first call for a folder."""
        return train_judge(self.images(), self.targets, self.folder / "judge.pt")


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("folder", type=Path)
    options.add_argument("--samples", type=int, default=500)
    args = options.parse_args()
    model, clip, vae = load_playground(asset.load())
    contact_sheet(model, clip, vae, args.folder / "contact_sheet.png")
    print(f"contact sheet: {args.folder / 'contact_sheet.png'}")

    base = Base(args.folder)
    judge, labels, targets = base.judge(), base.labels, base.targets
    picks = torch.randperm(len(labels), generator=torch.Generator().manual_seed(0))[: args.samples]
    prompts = [caption(*labels[i]) for i in picks]
    drawn = torch.cat(
        [sample(model, clip, vae, prompts[i : i + 50], seed=i) for i in range(0, len(prompts), 50)]
    )
    decoded = vae.first_stage_model(base.images()[picks]).clamp(-1, 1)
    print(
        f"{len(picks)} prompts, {len(base.names)} labels: label, style, background, all three right"
    )
    for name, images in (
        ("samples", rearrange(drawn, "n h w c -> n c h w") * 2 - 1),
        ("autoencoder alone", decoded),
    ):
        shares = judged(judge, images, targets[picks])
        print(f"{name:18}", "  ".join(f"{share:6.1%}" for share in shares), flush=True)


if __name__ == "__main__":
    main()
