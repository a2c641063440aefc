"""Reading picture files that may be broken or hostile: the result is a picture, or Unusable."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from io import BytesIO
from math import sqrt
from pathlib import Path

import numpy as np
from einops import repeat
from PIL import Image

from .buckets import Size
from .cut import MOST_LOST, completed, lost
from .formats import recognised

# bytes of a file
MOST_BYTES = 256 * 2**20
# pixels by the header, that is 1 GB decoded: more than any camera takes
MOST_PIXELS = 2**28
# pixels; a larger picture is scaled down to this number while it is decoded
LARGE = 2**26
# EXIF orientations that swap width and height
SIDEWAYS = (5, 6, 7, 8)
# the turn that makes each EXIF orientation upright
TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT, 3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM, 5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270, 7: Image.Transpose.TRANSVERSE, 8: Image.Transpose.ROTATE_90,
}  # fmt: skip
# the EXIF tag of the orientation
ORIENTATION = 0x0112


class Unusable(ValueError):
    """The reason why a picture is left out, in a few words."""


@dataclass(frozen=True)
class Seen:
    """The facts of a picture's header.

    width, height: upright, as the picture is decoded. transparent: it may be transparent. animated:
    it has more frames or pages than the first. full: its upright size in the file.
    """

    width: int
    height: int
    transparent: bool
    animated: bool = False
    full: Size = (0, 0)


@contextmanager
def opened(data: bytes | Path) -> Iterator[Image.Image]:
    """Yields the picture of a file, not decoded yet. Any error inside the with block is raised as
    Unusable: Pillow's decoders raise every kind on damaged files.
    """
    try:
        with BytesIO(data) if isinstance(data, bytes) else open(data, "rb") as source:
            image = recognised(source)
            if image is None:
                raise Unusable("unreadable")
            with image:
                check_header(image)
                yield image
    except Unusable:
        raise
    except Image.DecompressionBombError as error:
        raise Unusable(f"more than {MOST_PIXELS // 10**6} megapixels") from error
    except Exception as error:
        raise Unusable("unreadable") from error


def check_header(image: Image.Image) -> None:
    """Raises Unusable, before anything is decoded, for a size or a kind of pixels that is not
    read.
    """
    if image.width * image.height > MOST_PIXELS:
        raise Unusable(f"more than {MOST_PIXELS // 10**6} megapixels")
    if image.width < 1 or image.height < 1:
        raise Unusable("without pixels")
    if image.mode == "F":
        raise Unusable("floating-point pixels")


def working_size(size: Size) -> Size:
    """Returns the size that a picture is decoded to: its own, or less if it has more than LARGE
    pixels.
    """
    scale = sqrt(LARGE / (size[0] * size[1]))
    return size if scale >= 1 else (max(1, int(size[0] * scale)), max(1, int(size[1] * scale)))


def look(path: Path) -> Seen:
    """Reads the header of a file and returns its facts. Raises Unusable when the file can't be
    used.
    """
    try:
        length = path.stat().st_size
    except OSError as error:
        raise Unusable("unreadable") from error
    if length == 0:
        raise Unusable("empty")
    if length > MOST_BYTES:
        raise Unusable(f"larger than {MOST_BYTES // 2**20} MB")
    with opened(path) as image:
        # the second picture of an MPO is a preview of the first
        animated = getattr(image, "is_animated", False) and image.format != "MPO"
        full, size = image.size, working_size(image.size)
        transparent = image.has_transparency_data
        if image.getexif().get(ORIENTATION) in SIDEWAYS:
            full, size = full[::-1], size[::-1]
        return Seen(*size, transparent, animated, full)


def look_at_mask(path: Path) -> Size:
    """Returns the upright size of a mask file. Raises Unusable when the file can't be used."""
    try:
        return look(path).full
    except Unusable as reason:
        raise Unusable(f"its mask is {reason}") from reason


def decode(data: bytes) -> np.ndarray:
    """Returns a picture as float32 [height, width, 3] in [0, 1], upright, on white, in its
    working_size. Raises Unusable when it can't be read.
    """
    with decoded(data) as image:
        if is_deep(image):
            return repeat(deep_grey(image), "height width -> height width 3")
        if image.has_transparency_data:
            image = image.convert("RGBA")
            image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
        return np.asarray(image.convert("RGB")).astype(np.float32) / 255


def decode_mask(data: bytes, *, alpha: bool) -> np.ndarray:
    """Returns a mask as float32 [height, width] in [0, 1], upright, in its working_size: with
    `alpha` the opacity of a picture, else the brightness of a mask file, 0 where it is transparent.
    Raises Unusable when the file can't be read.
    """
    with decoded(data) as image:
        opaque = opacity(image)
        if alpha:
            return opaque
        if is_deep(image):
            return deep_grey(image) * opaque
        # colours as if nothing were transparent; the opacity makes transparent parts 0
        return np.asarray(image.convert("RGB").convert("L")).astype(np.float32) / 255 * opaque


def opacity(image: Image.Image) -> np.ndarray:
    """Returns the opacity of a picture as float32 [height, width]: 0 transparent, 1 opaque."""
    if not image.has_transparency_data:
        return np.ones(image.size[::-1], np.float32)
    if is_deep(image):  # one value of grey stands for transparent
        return (np.asarray(image) != image.info["transparency"]).astype(np.float32)
    return np.asarray(image.convert("RGBA").getchannel("A")).astype(np.float32) / 255


@contextmanager
def decoded(data: bytes) -> Iterator[Image.Image]:
    """Yields the first frame of a picture, upright and in its working_size."""
    data, was_cut = completed(data)
    with opened(data) as image:
        if was_cut and (share := lost(image, data)) > MOST_LOST:
            raise Unusable(f"cut off: {share:.0%} of it is missing")
        turn = TURNS.get(image.getexif().get(ORIENTATION))
        wanted = working_size(image.size)
        if wanted != image.size:
            image.draft(None, wanted)  # a JPEG is decoded at a half or a quarter
            image = scalable(image).resize(wanted, Image.Resampling.BOX)
        yield image if turn is None else image.transpose(turn)


def scalable(image: Image.Image) -> Image.Image:
    """Returns the picture in a mode whose pixels can be averaged."""
    if is_deep(image):
        return image.convert("I").convert("F")
    if image.has_transparency_data:
        return image.convert("RGBA")
    return image if image.mode in ("L", "RGB", "CMYK") else image.convert("RGB")


def is_deep(image: Image.Image) -> bool:
    """Returns whether a picture is grey with 16 bits."""
    return image.mode in ("I", "F") or image.mode.startswith("I;16")


def deep_grey(image: Image.Image) -> np.ndarray:
    """Returns a 16-bit grey picture as float32 [height, width] in [0, 1]."""
    return (np.asarray(image).astype(np.float32) / 65535).clip(0, 1)
