"""Units of size: bytes and megabytes."""

from __future__ import annotations

# of a saved adapter, which is fp16 or bf16 unless fp32 is asked for
BYTES_PER_PARAMETER = 2
# bytes; as the sizes of downloads are given, not 2**20
MEGABYTE = 1e6


def megabytes(parameters: float) -> float:
    """Returns the size in MB of so many parameters in a saved adapter."""
    return parameters * BYTES_PER_PARAMETER / MEGABYTE
