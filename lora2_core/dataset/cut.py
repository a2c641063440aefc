"""JPEG files whose end is missing, as broken downloads and full cards leave them."""

from __future__ import annotations

import numpy as np
from PIL import Image

BEGIN, SCAN, END = b"\xff\xd8\xff", b"\xff\xda", b"\xff\xd9"
GREY = (126, 129)  # what the decoder makes of blocks that are not there
MOST_LOST = 1 / 8  # of a picture, that may be missing


def completed(data: bytes) -> tuple[bytes, bool]:
    """Returns a file with the end that a JPEG lacks, and whether it lacked it. With its marker the
    decoder shows what there is; without, it refuses all of it.
    """
    scan = data.rfind(SCAN) if data.startswith(BEGIN) else -1
    if scan < 0 or data.find(END, scan) >= 0:
        return data, False
    return data.rstrip(b"\0") + END, True


def lost(image: Image.Image, data: bytes) -> float:
    """Returns the share of a completed JPEG that is missing: its lower part in plain grey, or all
    of it where passes of a progressive one are missing.
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
    """Returns whether the last pass that has begun brings details to their last bit, as those at
    the end of a progressive JPEG do.
    """
    scan = data.rfind(SCAN)
    header = data[scan + 4 : scan + 2 + int.from_bytes(data[scan + 2 : scan + 4], "big")]
    return len(header) >= 3 and header[-2] == 63 and header[-1] & 15 == 0
