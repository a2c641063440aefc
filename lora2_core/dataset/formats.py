"""The picture formats that are read: the safe ones of those that the host's Pillow can read."""

from __future__ import annotations

from io import BufferedIOBase

from PIL import Image

# only these decoders ever see a file; those of HEIF and JXL are plugins of Pillow
SAFE = (
    "PNG", "JPEG", "MPO", "WEBP", "BMP", "DIB", "TIFF", "GIF", "AVIF", "JPEG2000", "PPM", "QOI",
    "HEIF", "JXL",
)  # fmt: skip
# endings of pictures that need another program; the report gives that as the reason
OTHERS = (
    ".heic", ".heif", ".jxl", ".avif", ".jp2", ".qoi", ".psd", ".xcf", ".svg", ".exr", ".hdr",
    ".tga", ".dds", ".ico", ".dng", ".cr2", ".cr3", ".nef", ".arw", ".orf", ".raf", ".rw2", ".raw",
)  # fmt: skip
# bytes at a file's start, by which Pillow's decoders recognise it
START = 16


def formats() -> list[str]:
    """Returns the formats of SAFE that Pillow has a decoder for."""
    Image.init()
    return [form for form in SAFE if form in Image.OPEN]


def suffixes() -> tuple[str, ...]:
    """Returns the endings of files that can be read, in lower case."""
    known = {*formats(), "MPO"}  # the decoder of JPEG reads it
    endings = Image.registered_extensions().items()
    return tuple(sorted(ending for ending, form in endings if form in known))


def recognised(source: BufferedIOBase) -> Image.Image | None:
    """Returns the picture of a file, not decoded yet, in the format that the file's first bytes
    show; None for an unknown format.

    Image.open does the same, but its limit of pixels belongs to the process, not to a call.
    """
    start = source.read(START)
    for form in formats():
        factory, accepts = Image.OPEN[form]
        answer = accepts is None or accepts(start)
        if isinstance(answer, str) or not answer:  # a str says which library is missing
            continue
        source.seek(0)
        try:
            return factory(source, "")
        except (SyntaxError, IndexError, TypeError, ValueError, OSError):
            continue
    return None
