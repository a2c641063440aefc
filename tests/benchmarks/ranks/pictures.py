"""The data sets: what a subject is trained on, and what is kept from it.

Trained: three of the four styles, each on two backgrounds. Held out: the same three styles on other
backgrounds, and the fourth style. Which style is left out follows from the subject's name.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from lora2_core.playground.subjects import BACKGROUNDS, STYLES, caption, compose, pictures_of

TUNING = ("camera", "owl", "fox")
TEST = ("alarm clock", "bicycle", "cat face", "dragon face", "rocket", "unicorn")
COLOURS = tuple(BACKGROUNDS)
UNSEEN_COLOURS = COLOURS[::2]
STYLE_SETS = tuple(f"{style} style" for style in STYLES)


@dataclass(frozen=True)
class Picture:
    """One picture by name; its prompt is its caption."""

    subject: str
    style: str
    background: str

    @property
    def caption(self) -> str:
        return caption(self.subject, self.style, self.background)

    def image(self) -> Tensor:
        """[32, 32, 3] in [0, 1]."""
        rgba = pictures_of(self.subject)[STYLES.index(self.style)]
        return torch.from_numpy(compose(rgba, self.background)).float() / 255


def left_out(subject: str) -> int:
    """Number of the style that a subject is not trained in."""
    return sum(map(ord, subject)) % len(STYLES)


def split(subject: str) -> dict[str, list[Picture]]:
    """The sets of a subject: train (6), background (12, seen styles on unseen backgrounds), style
    (5, the style left out).
    """
    held = STYLES[left_out(subject)]
    seen = [style for style in STYLES if style != held]
    train = [
        Picture(subject, style, COLOURS[(3 * turn + 2 * n) % len(COLOURS)])
        for n, style in enumerate(seen)
        for turn in range(2)
    ]
    other = [Picture(subject, style, colour) for style in seen for colour in UNSEEN_COLOURS]
    return {
        "train": train,
        "background": [picture for picture in other if picture not in train],
        "style": [Picture(subject, held, colour) for colour in UNSEEN_COLOURS],
    }


def style_set(name: str) -> dict[str, list[Picture]]:
    """Training pictures of a style set ("noto style"): all test subjects, two backgrounds each."""
    style = name.removesuffix(" style")
    chosen = [
        Picture(subject, style, COLOURS[(2 * n + 3 * turn) % len(COLOURS)])
        for n, subject in enumerate(TEST)
        for turn in range(2)
    ]
    return {"train": chosen}


def sets_of(name: str) -> dict[str, list[Picture]]:
    """The sets of a subject or of a style set."""
    return style_set(name) if name in STYLE_SETS else split(name)
