"""Reading picture files that may be broken or hostile: a picture, or the reason why not."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps

SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".tif", ".tiff", ".gif")
FORMATS = ("PNG", "JPEG", "WEBP", "BMP", "TIFF", "GIF")  # the only decoders that files reach
MOST_BYTES = 256 * 2**20
SIDEWAYS = (5, 6, 7, 8)  # EXIF orientations that swap width and height
ORIENTATION = 0x0112


class Unusable(ValueError):
    """Why a picture is left out, as a few words."""


@dataclass(frozen=True)
class Seen:
    """What a picture's header says: its upright size, and whether it may be transparent."""

    width: int
    height: int
    transparent: bool


@contextmanager
def opened(data: bytes | Path) -> Iterator[Image.Image]:
    """The picture, not decoded yet; whatever goes wrong inside is Unusable.

    Pillow's decoders raise errors of any kind on damaged files, hence the broad except.
    """
    try:
        source = BytesIO(data) if isinstance(data, bytes) else data
        with Image.open(source, formats=FORMATS) as image:
            check_header(image)
            yield image
    except Unusable:
        raise
    except Image.DecompressionBombError as error:
        raise Unusable(f"more than {Image.MAX_IMAGE_PIXELS} pixels") from error
    except Exception as error:
        raise Unusable("unreadable") from error


def check_header(image: Image.Image) -> None:
    """Unusable for what is no still picture of a sane size; Pillow itself only warns of the
    latter.
    """
    if Image.MAX_IMAGE_PIXELS and image.width * image.height > Image.MAX_IMAGE_PIXELS:
        raise Unusable(f"more than {Image.MAX_IMAGE_PIXELS} pixels")
    if image.width < 1 or image.height < 1:
        raise Unusable("without pixels")
    if (
        getattr(image, "n_frames", 1) > 1 and image.format != "MPO"
    ):  # a phone's JPEG and its preview
        raise Unusable("animated or of several pages")
    if image.mode == "F":
        raise Unusable("floating-point pixels")


def look(path: Path) -> Seen:
    """Reads the header only; Unusable when the file can't be used."""
    try:
        size = path.stat().st_size
    except OSError as error:
        raise Unusable("unreadable") from error
    if size == 0:
        raise Unusable("empty")
    if size > MOST_BYTES:
        raise Unusable(f"larger than {MOST_BYTES // 2**20} MB")
    with opened(path) as image:
        width, height = image.size
        if image.getexif().get(ORIENTATION) in SIDEWAYS:
            width, height = height, width
        return Seen(width, height, image.has_transparency_data)


def look_at_mask(path: Path) -> tuple[int, int]:
    """The upright size of a mask's file; Unusable when it can't be used."""
    try:
        seen = look(path)
    except Unusable as reason:
        raise Unusable(f"its mask is {reason}") from reason
    return seen.width, seen.height


def decode(data: bytes) -> np.ndarray:
    """float32 [height, width, 3] in [0, 1], upright, on white; Unusable when it can't be read."""
    with opened(data) as image:
        image = ImageOps.exif_transpose(image)
        if is_deep(image):
            return np.repeat(deep_grey(image)[..., None], 3, axis=2)
        if image.has_transparency_data:
            image = image.convert("RGBA")
            image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
        return np.asarray(image.convert("RGB")).astype(np.float32) / 255


def decode_mask(data: bytes, *, alpha: bool) -> np.ndarray:
    """float32 [height, width] in [0, 1], upright: how opaque a picture is, or how bright a mask;
    Unusable when it can't be read.
    """
    with opened(data) as image:
        image = ImageOps.exif_transpose(image)
        if alpha:
            grey = image.convert("RGBA").getchannel("A")
        elif is_deep(image):
            return deep_grey(image)
        else:
            grey = image.convert("RGB").convert("L")
        return np.asarray(grey).astype(np.float32) / 255


def is_deep(image: Image.Image) -> bool:
    """Whether it is grey in 16 bits."""
    return image.mode == "I" or image.mode.startswith("I;16")


def deep_grey(image: Image.Image) -> np.ndarray:
    """float32 [height, width] in [0, 1] of a 16-bit grey picture."""
    return (np.asarray(image).astype(np.float32) / 65535).clip(0, 1)
