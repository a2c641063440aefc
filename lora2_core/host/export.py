"""Converts adapters to and from the host's LORA_MODEL: the tensors of a LoRA file by key."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from comfy.lora_convert import convert_lora
from torch import Tensor

from ..adapter.lora import RankedLora
from ..adapter.names import complete_map, kohya_name
from ..adapter.origin import Origin, SourceFile
from ..files.loading import collect
from ..files.saving import to_tensors


def as_lora_model(lora: RankedLora) -> dict[str, Tensor]:
    """Returns an adapter as the host's Save LoRA Weights and Load LoRA Model take it: the tensors
    of a kohya file in fp32.
    """
    names = [*lora.layers, *lora.others]
    paths = complete_map(names, lora.origin.base.diffusers)
    return to_tensors(lora, {n: kohya_name(n, paths) for n in names}, "kohya", torch.float32)


def from_lora_model(tensors: object) -> RankedLora:
    """Returns the adapter of a LORA_MODEL, on the CPU; ValueError in a sentence when it is none."""
    if not isinstance(tensors, Mapping) or not all(
        isinstance(key, str) and isinstance(tensor, Tensor) for key, tensor in tensors.items()
    ):
        raise ValueError(
            "lora is no LORA_MODEL: connect the lora output of LoRA2 Train or Train LoRA."
        )
    try:
        found = collect(convert_lora({k: t.detach().cpu() for k, t in tensors.items()}))
    except ValueError as error:
        raise ValueError(f"lora: {error}.") from error
    origin = Origin(file=SourceFile(keys=found.keys, notes=found.notes))
    return RankedLora(found.layers, origin, others=found.others)
