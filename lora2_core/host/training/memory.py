"""Too little memory, on whatever device."""

from __future__ import annotations

import torch


def out_of_memory(error: BaseException | None) -> bool:
    """Returns whether an error says that memory was too little."""
    told = str(error).lower()
    return isinstance(error, (MemoryError, torch.OutOfMemoryError)) or (
        isinstance(error, RuntimeError) and ("out of memory" in told or "allocate memory" in told)
    )
