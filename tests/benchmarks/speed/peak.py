"""The highest memory of this process between two moments, in bytes."""

from __future__ import annotations

import ctypes
import gc
import re
import resource
import sys
from contextlib import suppress
from pathlib import Path

import torch

STATUS, CLEAR = Path("/proc/self/status"), Path("/proc/self/clear_refs")


def field(name: str) -> int:
    """A memory field of /proc/self/status, in bytes."""
    return int(re.search(rf"^{name}:\s+(\d+) kB", STATUS.read_text(), re.M)[1]) * 1024


class Peak:
    """`above()` is how far memory has risen above what it was when this was made.

    On a GPU torch counts, on Linux the kernel (VmHWM, reset through clear_refs), elsewhere the
    highest resident size so far, which can't be reset: there the model must be the largest thing
    before.
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
            self.base = field("VmRSS")
        else:
            self.base = self.highest()

    def highest(self) -> int:
        if torch.cuda.is_available():
            return torch.cuda.max_memory_allocated()
        if self.resettable:
            return field("VmHWM")
        unit = 1 if sys.platform == "darwin" else 1024
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit

    def above(self) -> int:
        return max(0, self.highest() - self.base)
