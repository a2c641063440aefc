"""Reads single weights of a model's .safetensors file, however large the file is: the header first,
then the bytes of one tensor at a time.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor

from .tensor_file import Header, header_of, opened, shown

LONGEST_HEADER = 64_000_000  # bytes, as of an adapter's file
EIGHT_BITS = (torch.float8_e4m3fn, torch.float8_e5m2)
SCALES = ("scale_weight", "weight_scale")  # endings of what a weight in 8 bits is multiplied by


class ModelFile:
    """Is an open file of weights. Use it in a `with` statement.

    ValueError in one sentence that names the file for one that can't be read; OSError from the
    disk.
    """

    def __init__(self, path: Path) -> None:
        self.name = shown(path.name)
        self.file = opened(path, self.name)
        try:
            self.header: Header = header_of(self.file, self.name, LONGEST_HEADER)
        except BaseException:
            self.file.close()
            raise

    def __enter__(self) -> ModelFile:
        return self

    def __exit__(self, *error: object) -> None:
        self.file.close()

    def shape(self, key: str) -> tuple[int, ...]:
        """Returns the shape of a tensor."""
        return self.header.entries[key].shape

    def raw(self, key: str) -> Tensor:
        """Returns a tensor as it is stored."""
        entry = self.header.entries[key]
        values = bytearray(entry.end - entry.start)
        self.file.seek(len(self.header.raw) + entry.start)
        if self.file.readinto(values) != len(values):
            raise ValueError(f"{self.name} changed while it was read: try again.")
        return replace(entry, start=0, end=len(values)).tensor(values)

    def weight(self, key: str) -> Tensor:
        """Returns a weight, with its scale where it is stored in 8 bits; ValueError for one that is
        quantised in another way.
        """
        values = self.raw(key)
        base, _, ending = key.rpartition(".")
        scale = next((f"{base}.{s}" for s in SCALES if f"{base}.{s}" in self.header.entries), None)
        if not values.is_floating_point() or (scale and values.dtype not in EIGHT_BITS):
            raise ValueError(
                f"{self.name}: {shown(key)} is quantised ({values.dtype}), which is not read from "
                "files: load both models in nodes, and connect them."
            )
        if scale is None or ending != "weight":
            return values
        factor = self.raw(scale).float()
        if factor.numel() != 1:
            raise ValueError(
                f"{self.name}: {shown(scale)} has {factor.numel()} values, and only one is read "
                "from files: load both models in nodes, and connect them."
            )
        return values.float() * factor.reshape(())
