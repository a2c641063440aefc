"""Which part of a picture fills its bucket: the centre, or boxes that differ a little."""

from __future__ import annotations

from dataclasses import dataclass
from random import Random

from .buckets import Size

LEAST_SIDE = 0.7  # of the largest box, that a random crop keeps


@dataclass(frozen=True)
class Crop:
    """A box of a picture in pixels, mirrored left to right if asked."""

    left: int
    top: int
    width: int
    height: int
    flip: bool = False


def crop_to(size: Size, bucket: Size, generator: Random | None = None) -> Crop:
    """Returns the largest box of the bucket's shape, centred; with a generator a smaller one
    anywhere.
    """
    scale = min(size[0] / bucket[0], size[1] / bucket[1])
    if generator is not None:
        scale *= generator.uniform(LEAST_SIDE, 1)
    width = min(size[0], max(1, round(scale * bucket[0])))
    height = min(size[1], max(1, round(scale * bucket[1])))
    free = size[0] - width, size[1] - height
    if generator is None:
        return Crop(free[0] // 2, free[1] // 2, width, height)
    return Crop(generator.randint(0, free[0]), generator.randint(0, free[1]), width, height)


def crops_of(size: Size, bucket: Size, *, extra: int, flip: bool, seed: str) -> list[Crop]:
    """Returns the centre crop and `extra` random ones, each also mirrored if asked; same seed, same
    boxes.
    """
    generator = Random(seed)
    crops = [crop_to(size, bucket)] + [crop_to(size, bucket, generator) for _ in range(extra)]
    sides = (False, True) if flip else (False,)
    return [Crop(c.left, c.top, c.width, c.height, side) for c in crops for side in sides]
