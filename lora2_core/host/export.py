"""A finished adapter as the host's own LORA_MODEL: the tensors of a kohya file in fp32."""

from __future__ import annotations

import torch
from torch import Tensor

from ..files import to_tensors
from ..lora import RankedLora
from ..names import complete_map, kohya_name


def as_lora_model(lora: RankedLora) -> dict[str, Tensor]:
    """What the host's Save LoRA Weights and Load LoRA Model take."""
    paths = complete_map(lora.layers, lora.info.get("diffusers", {}))
    return to_tensors(lora, {n: kohya_name(n, paths) for n in lora.layers}, "kohya", torch.float32)
