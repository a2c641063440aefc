"""Example pictures: subjects that the playground was not trained on, and photographs of a bear
plushie.

subjects.png holds pictures of 32 x 32 RGBA pixels: its rows are SUBJECTS, its columns STYLES.
photographs/ holds five pictures of the DreamBooth data set. Credits are in README.md.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from einops import rearrange
from PIL import Image
from torch import Tensor

from ..checks import check_choice, check_range

# pixels of a picture's side
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
    """Returns the caption of an emoji picture; prompts have the same form."""
    return f"{label}, {style} style, {background} background"


def compose(rgba: np.ndarray, background: str) -> np.ndarray:
    """Puts uint8 RGBA pictures [..., 4] on a background of BACKGROUNDS; returns uint8 RGB [...,
    3].
    """
    alpha = rgba[..., 3:].astype(np.float32) / 255
    colour = np.asarray(BACKGROUNDS[background], np.float32)
    return (rgba[..., :3] * alpha + colour * (1 - alpha)).round().astype(np.uint8)


def pictures_of(subject: str) -> np.ndarray:
    """Returns the four pictures of a subject in the order of STYLES, uint8 RGBA [4, 32, 32, 4]."""
    with Image.open(FOLDER / "subjects.png") as atlas:
        row = np.asarray(atlas.convert("RGBA"))[SUBJECTS.index(subject) * SIZE :][:SIZE]
    return rearrange(row, "height (style width) rgba -> style height width rgba", width=SIZE)


def emoji_example(subject: str, index: int) -> tuple[np.ndarray, str]:
    """Returns picture `index` of a subject, uint8 RGB, and its caption. The styles take turns, each
    time on other backgrounds, so that all MOST_PICTURES differ.
    """
    turn, style = divmod(index, len(STYLES))
    background = list(BACKGROUNDS)[(3 * turn + style) % len(BACKGROUNDS)]
    return compose(pictures_of(subject)[style], background), caption(
        subject, STYLES[style], background
    )


def examples(subject: str, count: int) -> tuple[list[Tensor], list[str]]:
    """Returns `count` images of a subject, [height, width, 3] in [0, 1], and their captions. Raises
    ValueError for an unknown subject, or too many.
    """
    check_choice("subject", subject, tuple(NAMES))
    check_range("pictures", count, 1, MOST_PICTURES, integer=True)
    if subject == PHOTOGRAPHS:
        files = sorted((FOLDER / "photographs").glob("*.jpg"))[:count]
        pictures = [(np.asarray(Image.open(f).convert("RGB")), PHOTOGRAPH_CAPTION) for f in files]
    else:
        pictures = [emoji_example(subject, i) for i in range(count)]
    return [torch.from_numpy(p.copy()).float() / 255 for p, _ in pictures], [c for _, c in pictures]
