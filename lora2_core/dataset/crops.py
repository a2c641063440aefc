"""The part of a picture that fills its bucket: the centre, or random boxes near it."""

from __future__ import annotations

from dataclasses import dataclass
from random import Random

from .buckets import Size

# share of the largest box's side that a random crop has at least, so that it still shows the
# subject
LEAST_SIDE = 0.7


@dataclass(frozen=True)
class Crop:
    """A box of a picture in pixels, to be mirrored left to right if `flip`."""

    left: int
    top: int
    width: int
    height: int
    flip: bool = False


def crop_to(size: Size, bucket: Size, generator: Random | None = None) -> Crop:
    """Returns the largest box of the bucket's shape, in the centre. With a generator it is smaller,
    and anywhere in the picture.
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
    """Returns the centre crop and `extra` random crops, with `flip` each also mirrored. The same
    seed gives the same boxes.
    """
    generator = Random(seed)
    crops = [crop_to(size, bucket)] + [crop_to(size, bucket, generator) for _ in range(extra)]
    sides = (False, True) if flip else (False,)
    return [Crop(c.left, c.top, c.width, c.height, side) for c in crops for side in sides]
