"""Tells too little memory from other errors, on whatever device."""

from __future__ import annotations

import torch


def out_of_memory(error: BaseException | None) -> bool:
    """Returns whether an error says that memory was too little."""
    text = str(error).lower()
    return isinstance(error, (MemoryError, torch.OutOfMemoryError)) or (
        isinstance(error, RuntimeError) and ("out of memory" in text or "allocate memory" in text)
    )
