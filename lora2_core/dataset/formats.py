"""Which picture files are read: what the host's Pillow can, of the kinds that are safe to try."""

from __future__ import annotations

from io import BufferedIOBase

from PIL import Image

# the only decoders that files reach; HEIF and JXL come with Pillow's plugins, where there are any
SAFE = (
    "PNG", "JPEG", "MPO", "WEBP", "BMP", "DIB", "TIFF", "GIF", "AVIF", "JPEG2000", "PPM", "QOI",
    "HEIF", "JXL",
)  # fmt: skip
OTHERS = (  # endings of pictures that need another program, for which a reason is given
    ".heic", ".heif", ".jxl", ".avif", ".jp2", ".qoi", ".psd", ".xcf", ".svg", ".exr", ".hdr",
    ".tga", ".dds", ".ico", ".dng", ".cr2", ".cr3", ".nef", ".arw", ".orf", ".raf", ".rw2", ".raw",
)  # fmt: skip
START = 16  # bytes, from which Pillow's decoders know their files


def formats() -> list[str]:
    """Returns the formats of SAFE whose decoder is there."""
    Image.init()
    return [form for form in SAFE if form in Image.OPEN]


def suffixes() -> tuple[str, ...]:
    """Returns the endings, in small letters, of files that can be read."""
    known = {*formats(), "MPO"}  # read by the decoder of JPEG
    endings = Image.registered_extensions().items()
    return tuple(sorted(ending for ending, form in endings if form in known))


def recognised(source: BufferedIOBase) -> Image.Image | None:
    """Returns a picture by what its file begins with, not decoded yet; None for no known format.

    Image.open does the same, but refuses by a number of pixels that belongs to the whole process.
    """
    start = source.read(START)
    for form in formats():
        factory, accepts = Image.OPEN[form]
        answer = accepts is None or accepts(start)
        if isinstance(answer, str) or not answer:  # a text says what is missing to read it
            continue
        source.seek(0)
        try:
            return factory(source, "")
        except (SyntaxError, IndexError, TypeError, ValueError, OSError):
            continue
    return None
