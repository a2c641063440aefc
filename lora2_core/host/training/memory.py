"""Tells too little memory from other errors, on whatever device."""

from __future__ import annotations

import torch

# in what devices and their libraries say, in small letters: torch; CPUs; cuDNN and its successors,
# which find no way to compute that fits into what is left; cuBLAS and its relative of AMD
WORDS = (
    "out of memory", "allocate memory", "unable to find an engine to execute this computation",
    "cudnn_status_alloc_failed", "cudnn_status_internal_error_host_allocation_failed",
    "cublas_status_alloc_failed", "cublas_status_not_initialized", "hipblas_status_alloc_failed",
    "rocblas_status_memory_error", "miopenstatusallocfailed", "hiperroroutofmemory",
    "cusolver_status_alloc_failed", "error_out_of_device_memory", "insufficient memory",
)  # fmt: skip


def out_of_memory(error: BaseException | None) -> bool:
    """Returns whether an error says that memory was too little."""
    if isinstance(error, (MemoryError, torch.OutOfMemoryError)):
        return True
    text = str(error).lower()
    return isinstance(error, RuntimeError) and any(words in text for words in WORDS)
