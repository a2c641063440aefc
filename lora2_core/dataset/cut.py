"""JPEG files that lack their end, after a broken download or on a full memory card."""

from __future__ import annotations

import numpy as np
from PIL import Image

# markers of JPEG: of a file's begin, of each scan, of a file's end
BEGIN, SCAN, END = b"\xff\xd8\xff", b"\xff\xda", b"\xff\xd9"
# range of the grey, of 0 to 255, in which the decoder shows missing blocks
GREY = (126, 129)
# share of a picture that may be missing: with more of it grey, grey would be learned
MOST_LOST = 1 / 8


def completed(data: bytes) -> tuple[bytes, bool]:
    """Returns a file, with the end marker added if a JPEG lacks it, and whether it did. Without the
    marker the decoder refuses the file; with it, it shows the part that is there.
    """
    scan = data.rfind(SCAN) if data.startswith(BEGIN) else -1
    if scan < 0 or data.find(END, scan) >= 0:
        return data, False
    return data.rstrip(b"\0") + END, True


def lost(image: Image.Image, data: bytes) -> float:
    """Returns the share of a completed JPEG that is missing: the plain grey at its end. A
    progressive JPEG that lacks a pass counts as missing altogether.
    """
    if image.info.get("progressive") and not last_pass(data):
        return 1.0
    pixels = np.asarray(image)
    grey = (pixels >= GREY[0]) & (pixels <= GREY[1])
    grey = grey.all(-1) if grey.ndim == 3 else grey
    ends = np.where(grey.all(1), grey.shape[1], np.argmin(grey[:, ::-1], axis=1))[::-1]
    stop = int(np.argmin(ends > 0)) if not (ends > 0).all() else len(ends)
    return float(ends[:stop].sum()) / grey.size


def last_pass(data: bytes) -> bool:
    """Returns whether the last pass that has begun contains the last bit of the finest details,
    which a progressive JPEG ends with.
    """
    scan = data.rfind(SCAN)
    header = data[scan + 4 : scan + 2 + int.from_bytes(data[scan + 2 : scan + 4], "big")]
    return len(header) >= 3 and header[-2] == 63 and header[-1] & 15 == 0
