"""The highest memory of this process between two moments, in bytes."""

from __future__ import annotations

import ctypes
import gc
import re
import resource
import sys
import time
from contextlib import suppress
from pathlib import Path
from threading import Thread

import torch

STATUS, CLEAR = Path("/proc/self/status"), Path("/proc/self/clear_refs")
SWAPS = Path("/proc/swaps")  # a heading, and a line for each


def field(name: str) -> int:
    """A memory field of /proc/self/status, in bytes."""
    return int(re.search(rf"^{name}:\s+(\d+) kB", STATUS.read_text(), re.M)[1]) * 1024


def held() -> int:
    """What the process has in memory and in swap, in bytes."""
    return field("VmRSS") + field("VmSwap")


class Peak:
    """`above()` is how far memory has risen above what it was when this was made.

    On a GPU torch counts, on Linux the kernel (VmHWM, reset through clear_refs), elsewhere the
    highest resident size so far, which can't be reset: there the model must be the largest thing
    before. Where Linux may swap, what is there counts as well, as often as it is looked at.
    """

    def __init__(self) -> None:
        gc.collect()
        with suppress(OSError, AttributeError):
            ctypes.CDLL(None).malloc_trim(0)
        self.resettable = STATUS.exists() and CLEAR.exists()
        if torch.cuda.is_available():
            torch.cuda.reset_peak_memory_stats()
            self.base = torch.cuda.memory_allocated()
        elif self.resettable:
            CLEAR.write_text("5")
            self.base = self.seen = held()
            if len(SWAPS.read_text().splitlines()) > 1:
                Thread(target=self.watch, daemon=True).start()
        else:
            self.base = self.highest()

    def highest(self) -> int:
        if torch.cuda.is_available():
            return torch.cuda.max_memory_allocated()
        if self.resettable:
            return max(field("VmHWM"), self.seen)
        unit = 1 if sys.platform == "darwin" else 1024
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit

    def watch(self) -> None:
        while True:
            self.seen = max(self.seen, held())
            time.sleep(0.05)

    def above(self) -> int:
        return max(0, self.highest() - self.base)
