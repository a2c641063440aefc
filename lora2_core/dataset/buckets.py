"""Aspect-ratio buckets: the few sizes that pictures are scaled to, all of about one area."""

from __future__ import annotations

import math
from functools import lru_cache

Size = tuple[int, int]  # width, height in pixels

STEP = 64  # what sides are multiples of, as image models were trained
WIDEST = 3.0  # a longer picture is cropped to this ratio of its sides
FEWEST_STEPS = 4  # of a square's side, or too few shapes are left to choose from


def step_for(resolution: int, ratio: int) -> int:
    """Returns what the sides of buckets are multiples of, for a VAE that shrinks pictures by
    `ratio`.

    64, halved for small pictures until eight make a side, but never less than two latent pixels.
    ValueError when the resolution is too small even then.
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
    """Returns every (width, height) in multiples of step whose area is nearest to resolution² for
    its longer side.
    """
    square = multiple(resolution, step)
    sizes = {(square, square)}
    for long in range(square, int(2 * resolution) + step, step):
        short = multiple(resolution**2 / long, step)
        if short < long <= WIDEST * short:
            sizes |= {(long, short), (short, long)}
    return tuple(sorted(sizes))


def bucket_for(size: Size, resolution: int, step: int, *, square: bool = False) -> Size:
    """Returns the bucket whose aspect ratio is nearest to the picture's; only the square one if
    asked.
    """
    if square:
        return (multiple(resolution, step),) * 2
    wanted = math.log(size[0] / size[1])
    return min(buckets(resolution, step), key=lambda b: abs(math.log(b[0] / b[1]) - wanted))


def multiple(length: float, step: int) -> int:
    """Returns the multiple of step that is nearest to a length, at least one step."""
    return max(1, round(length / step)) * step


def enlargement(size: Size, bucket: Size) -> float:
    """Returns how many times a picture is enlarged to fill its bucket; below 1 when it shrinks."""
    return max(bucket[0] / size[0], bucket[1] / size[1])
