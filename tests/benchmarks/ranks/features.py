"""How like the unseen pictures samples are, in the eyes of the judge (tests/playground).

Similarity is the cosine between the judge's 256 features of a sample and of the true picture;
following is the share of samples on whose background the judge sees the colour that was asked for.
"""

from __future__ import annotations

from pathlib import Path

import torch
from einops import rearrange
from torch import Tensor
from torch.nn.functional import cosine_similarity

from tests.benchmarks.ranks.pictures import COLOURS, Picture
from tests.playground.evaluate import Base
from tests.playground.sampling import sample


def as_input(images: Tensor) -> Tensor:
    """[N, H, W, 3] in [0, 1] to the judge's [N, 3, H, W] in [-1, 1]."""
    return rearrange(images, "n h w c -> n c h w") * 2 - 1


class Features:
    def __init__(self, playground: Path):
        self.judge = Base(playground).judge()

    def compare(self, model, clip, vae, sets: dict[str, list[Picture]]) -> dict[str, float]:
        """Similarity on both held-out sets and following on both together; one sample a picture,
        with the same noise for every model.
        """
        wanted = [*sets["background"], *sets["style"]]
        drawn = as_input(sample(model, clip, vae, [p.caption for p in wanted]))
        true = as_input(torch.stack([p.image() for p in wanted]))
        with torch.no_grad():
            seen = cosine_similarity(self.judge.body(drawn), self.judge.body(true))
            colours = self.judge(drawn)[2].argmax(1)
        asked = torch.tensor([COLOURS.index(p.background) for p in wanted])
        count = len(sets["background"])
        return {
            "similar_background": float(seen[:count].mean()),
            "similar_style": float(seen[count:].mean()),
            "following": float((colours == asked).float().mean()),
        }
