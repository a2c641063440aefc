"""DINO, CLIP-I and CLIP-T: how much pictures look like a subject, and like their prompts.

They are those of DreamBooth (Ruiz et al., arXiv 2208.12242, section 4.1) and of the LoRA² paper.
DINO and CLIP-I are the mean cosine over all pairs of a generated and a real picture. CLIP-T is the
mean cosine of a generated picture and its prompt. Means are taken over the pictures of a prompt,
then over prompts, then over subjects. All lie in -1 to 1; more is better.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields

import torch
from einops import rearrange
from torch import Tensor

BATCH = 16  # pictures that an encoder gets at once


@dataclass(frozen=True)
class Score:
    """The three scores; None where the encoder is missing."""

    dino: float | None = None
    clip_i: float | None = None
    clip_t: float | None = None

    @classmethod
    def mean(cls, scores: Sequence[Score]) -> Score:
        """Returns the mean of each of the three scores, over the entries that have it."""
        columns = {f.name: [getattr(s, f.name) for s in scores] for f in fields(cls)}
        known = {name: [v for v in values if v is not None] for name, values in columns.items()}
        return cls(**{name: sum(v) / len(v) if v else None for name, v in known.items()})

    def values(self) -> dict[str, float]:
        """Returns the scores that were measured, by their usual names."""
        named = {"DINO": self.dino, "CLIP-I": self.clip_i, "CLIP-T": self.clip_t}
        return {name: value for name, value in named.items() if value is not None}


@dataclass(frozen=True)
class Encoders:
    """The encoders: each makes features [B, width] of pictures [B, height, width, 3] in 0 to 1, or
    of texts. None where one is missing. `clip` and `text` are the two towers of one model.
    """

    dino: Callable[[Tensor], Tensor] | None = None
    clip: Callable[[Tensor], Tensor] | None = None
    text: Callable[[Sequence[str]], Tensor] | None = None

    def __post_init__(self) -> None:
        if self.dino is None and self.clip is None:
            raise ValueError(
                "There is no encoder to judge with: connect clip_vision or dino, or choose a "
                "folder of an encoder."
            )
        if self.text is not None and self.clip is None:
            raise ValueError(
                "There are features of texts but none of pictures: connect the CLIP_VISION of the "
                "same model."
            )


def cosines(rows: Tensor, columns: Tensor) -> Tensor:
    """Returns the cosine of every row [n, width] with every column [m, width], as fp64 [n, m]."""
    rows, columns = rows.double(), columns.double()
    lengths = rows.norm(dim=1)[:, None] * columns.norm(dim=1)
    return rows @ columns.T / lengths.clamp(min=1e-12)


def features(encode: Callable[[Tensor], Tensor], pictures: Sequence[Tensor]) -> Tensor:
    """Returns the features [n, width] of all pictures, in any order.

    pictures: batches [B, height, width, 3], which may have different sizes.
    """
    sizes: dict[tuple, list[Tensor]] = {}
    for batch in pictures:
        sizes.setdefault(batch.shape[1:], []).append(batch)
    parts = [encode(part) for alike in sizes.values() for part in torch.cat(alike).split(BATCH)]
    return torch.cat([rearrange(part, "pictures ... -> pictures (...)") for part in parts])


class Judge:
    """Scores pictures against the pictures of one subject, which are encoded once.

    references: batches [B, height, width, 3] in 0 to 1 of pictures of the real subject.
    """

    def __init__(self, encoders: Encoders, references: Sequence[Tensor]):
        if not sum(len(batch) for batch in references):
            raise ValueError("There are no pictures of the subject: connect at least one.")
        self.encoders = encoders
        self._dino = encoders.dino and features(encoders.dino, references)
        self._clip = encoders.clip and features(encoders.clip, references)

    def of_prompt(self, pictures: Sequence[Tensor], prompt: str) -> Score:
        """Returns the mean score of the pictures of one prompt, batches [B, height, width, 3]."""
        dino = clip_i = clip_t = None
        if self.encoders.dino:
            generated = features(self.encoders.dino, pictures)
            dino = float(cosines(generated, self._dino).mean())
        if self.encoders.clip:
            generated = features(self.encoders.clip, pictures)
            clip_i = float(cosines(generated, self._clip).mean())
            if self.encoders.text:
                clip_t = float(cosines(generated, self.encoders.text([prompt])).mean())
        return Score(dino, clip_i, clip_t)


def by_prompt(
    images: Sequence[Tensor], prompts: Sequence[str]
) -> list[tuple[str, Sequence[Tensor]]]:
    """Returns (prompt, its pictures) for each prompt. The pictures of all batches are dealt out in
    order, the same number to each; ValueError where that number is not an integer from 1 on.
    """
    if not prompts:
        raise ValueError("prompts is empty: write the prompts of the pictures, one a line.")
    single = [picture for batch in images for picture in batch.split(1)]
    count, rest = divmod(len(single), len(prompts))
    if rest or not count:
        raise ValueError(
            f"{len(single)} images can't be shared out evenly among {len(prompts)} prompts: give "
            "each prompt the same number of pictures, in the order of the prompts."
        )
    return [(prompt, single[i * count :][:count]) for i, prompt in enumerate(prompts)]
