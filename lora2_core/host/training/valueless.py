"""Models and inputs whose tensors have shapes and no values: they are on torch's device "meta"."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn

from ...layers.storage import storage_of

META = torch.device("meta")


def on_meta(value):
    """Returns a value with its tensors on the device without values."""
    if torch.is_tensor(value):
        return value.to(META)
    if isinstance(value, (list, tuple)):
        return type(value)(map(on_meta, value))
    return {k: on_meta(v) for k, v in value.items()} if isinstance(value, dict) else value


@contextmanager
def without_values(model: nn.Module) -> Iterator[set[int]]:
    """Puts tensors without values in place of all parameters and buffers inside, and yields which
    memory they stand for.
    """
    before, made = [], []
    try:
        for part in model.modules():
            for table in (part._parameters, part._buffers):
                for name, tensor in table.items():
                    if tensor is None:
                        continue
                    before.append((table, name, tensor))
                    made.append(torch.empty(tensor.shape, dtype=tensor.dtype, device=META))
                    table[name] = made[-1]
                    if isinstance(tensor, nn.Parameter):
                        table[name] = nn.Parameter(made[-1], requires_grad=False)
        yield set(map(storage_of, made))
    finally:
        for table, name, tensor in before:
            table[name] = tensor
