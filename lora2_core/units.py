"""Sizes: parameters and megabytes."""

from __future__ import annotations

BYTES_PER_PARAMETER = 2  # an exported adapter is fp16 or bf16 unless asked otherwise

MEGABYTE = 1e6
