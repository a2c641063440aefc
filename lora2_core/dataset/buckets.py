"""Aspect-ratio buckets: the few sizes that pictures are scaled to, all with about one area."""

from __future__ import annotations

import math
import re
from functools import lru_cache

from ..checks import check_text
from ..paths import quoted

# width and height in pixels
Size = tuple[int, int]

# pixels; sides of buckets are multiples of it, as image models were trained (SDXL, arXiv
# 2307.01952)
STEP = 64
# the longer side over the shorter: a longer picture is cropped to this
WIDEST = 3.0
# the side of the square bucket in steps: with fewer, there are too few shapes
FEWEST_STEPS = 4
# pixels: the least and the highest resolution
RESOLUTIONS = 16, 8192
# resolutions beside the first: each encodes every picture once more
MOST_RESOLUTIONS = 8


def resolutions_of(text: str) -> tuple[int, ...]:
    """Returns the resolutions that a text such as `512, 768` names, each once. Raises ValueError
    for anything else.
    """
    check_text("more_resolutions", text)
    words = [word for word in re.split(r"[,;\s]+", text) if word]
    least, most = RESOLUTIONS
    if not all(re.fullmatch(r"[0-9]{1,5}", w) and least <= int(w) <= most for w in words):
        raise ValueError(
            f"more_resolutions is {quoted(text)}: give numbers from {least} to {most} with commas "
            "between, such as 512, 768, or nothing."
        )
    found = tuple(dict.fromkeys(map(int, words)))
    if len(found) > MOST_RESOLUTIONS:
        raise ValueError(
            f"more_resolutions names {len(found)} of them: give at most {MOST_RESOLUTIONS}."
        )
    return found


def step_for(resolution: int, ratio: int) -> int:
    """Returns the pixels that the sides of buckets are multiples of, for a VAE that shrinks
    pictures by `ratio`: 64, halved for small pictures until a side has eight steps, but at least
    two pixels of the latent. Raises ValueError when the resolution is too small even then.
    """
    smallest = 2 * ratio
    if resolution < FEWEST_STEPS * smallest:
        raise ValueError(
            f"resolution is {resolution}, but this VAE needs at least {FEWEST_STEPS * smallest}: "
            "raise resolution."
        )
    step = max(STEP, smallest)
    while step % 2 == 0 and step // 2 >= smallest and 8 * step > resolution:
        step //= 2
    return step


@lru_cache
def buckets(resolution: int, step: int) -> tuple[Size, ...]:
    """Returns every bucket: the longer side is a multiple of step, the shorter one the multiple
    that brings the area nearest to resolution².
    """
    square = multiple(resolution, step)
    sizes = {(square, square)}
    for long in range(square, int(2 * resolution) + step, step):
        short = multiple(resolution**2 / long, step)
        if short < long <= WIDEST * short:
            sizes |= {(long, short), (short, long)}
    return tuple(sorted(sizes))


def bucket_for(size: Size, resolution: int, step: int, *, square: bool = False) -> Size:
    """Returns the bucket whose aspect ratio is nearest to the picture's; the square bucket if
    `square`.
    """
    if square:
        return (multiple(resolution, step),) * 2
    wanted = math.log(size[0] / size[1])
    return min(buckets(resolution, step), key=lambda b: abs(math.log(b[0] / b[1]) - wanted))


def multiple(length: float, step: int) -> int:
    """Returns the multiple of step nearest to a length, at least one step."""
    return max(1, round(length / step)) * step


def enlargement(size: Size, bucket: Size) -> float:
    """Returns the factor by which a picture is enlarged to fill its bucket; below 1 if it
    shrinks.
    """
    return max(bucket[0] / size[0], bucket[1] / size[1])
