"""The example pictures: subjects that the playground has never seen, and photographs of a bear
plushie.

subjects.png is an atlas of 32 x 32 RGBA pictures, a row a subject (SUBJECTS) and a column a style
(STYLES); photographs/ holds five of the DreamBooth data set. Credits in README.md.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from ..checks import check_choice, check_range

SIZE = 32
STYLES = ("noto", "fluent-flat", "twemoji", "fluent-3d")
BACKGROUNDS = {
    "white": (255, 255, 255), "black": (16, 16, 18), "red": (214, 57, 57), "green": (70, 160, 80),
    "blue": (60, 105, 210), "yellow": (245, 212, 80), "orange": (240, 150, 60),
    "purple": (128, 76, 186), "pink": (246, 170, 200), "grey": (150, 150, 155),
}  # fmt: skip
SUBJECTS = (
    "alarm clock", "bicycle", "camera", "cat face", "cupcake", "dragon face", "fox", "high-heeled "
    "shoe",
    "owl", "red apple", "rocket", "strawberry", "teddy bear", "unicorn",
)  # fmt: skip
PHOTOGRAPHS = "bear plushie (photographs)"
PHOTOGRAPH_CAPTION = "a photo of a sks stuffed animal"
NAMES = [*SUBJECTS, PHOTOGRAPHS]
MOST_PICTURES = len(STYLES) * len(BACKGROUNDS)
FOLDER = Path(__file__).parent


def caption(label: str, style: str, background: str) -> str:
    """Returns the caption of an emoji picture, as prompts are written too."""
    return f"{label}, {style} style, {background} background"


def compose(rgba: np.ndarray, background: str) -> np.ndarray:
    """Returns uint8 RGBA pictures [..., 4] over a named flat colour: uint8 RGB [..., 3]."""
    alpha = rgba[..., 3:].astype(np.float32) / 255
    colour = np.asarray(BACKGROUNDS[background], np.float32)
    return (rgba[..., :3] * alpha + colour * (1 - alpha)).round().astype(np.uint8)


def pictures_of(subject: str) -> np.ndarray:
    """Returns uint8 RGBA [4, 32, 32, 4] of one subject, in the order of STYLES."""
    with Image.open(FOLDER / "subjects.png") as atlas:
        row = np.asarray(atlas.convert("RGBA"))[SUBJECTS.index(subject) * SIZE :][:SIZE]
    return row.reshape(SIZE, len(STYLES), SIZE, 4).swapaxes(0, 1)


def emoji_example(subject: str, index: int) -> tuple[np.ndarray, str]:
    """Returns picture `index` of a subject: the styles in turn, each round of them on other
    backgrounds, so that all MOST_PICTURES differ.
    """
    turn, style = divmod(index, len(STYLES))
    background = list(BACKGROUNDS)[(3 * turn + style) % len(BACKGROUNDS)]
    return compose(pictures_of(subject)[style], background), caption(
        subject, STYLES[style], background
    )


def examples(subject: str, count: int) -> tuple[list[Tensor], list[str]]:
    """Returns `count` images [H, W, 3] in [0, 1] with captions; ValueError for an unknown subject
    or count.
    """
    check_choice("subject", subject, tuple(NAMES))
    check_range("pictures", count, 1, MOST_PICTURES, integer=True)
    if subject == PHOTOGRAPHS:
        files = sorted((FOLDER / "photographs").glob("*.jpg"))[:count]
        pictures = [(np.asarray(Image.open(f).convert("RGB")), PHOTOGRAPH_CAPTION) for f in files]
    else:
        pictures = [emoji_example(subject, i) for i in range(count)]
    return [torch.from_numpy(p.copy()).float() / 255 for p, _ in pictures], [c for _, c in pictures]
