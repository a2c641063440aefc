"""Which memory a tensor lies in."""

from __future__ import annotations

from torch import Tensor


def storage_of(tensor: Tensor) -> int:
    """Returns what tells the storage of a tensor from all others while it lives."""
    return tensor.untyped_storage()._cdata
