"""Advice that a run can give before its first step; it is shown in the node, nothing depends on
it.
"""

from __future__ import annotations

import comfy.model_management

from .playground import PlaygroundSDXL
from .run import HostRun

SLOW = 1e-3  # a learning rate that the playground hardly moves at
SIZE = 20_000_000  # parameters: below it a CPU is quick enough


def hints(model, run: HostRun) -> list[str]:
    """Sentences, most often none; the front end has them in other languages."""
    told = []
    if isinstance(model.model, PlaygroundSDXL) and 0 < run.training.learning_rate < SLOW:
        told.append("The Playground hardly learns at this learning_rate: try 5e-3.")
    device = comfy.model_management.get_torch_device()
    if device.type == "cpu" and sum(p.numel() for p in model.model.parameters()) > SIZE:
        told.append(
            "No GPU is used, so this takes long: LoRA² Playground is the model to try things with."
        )
    start = run.start.start_from
    if start is not None and (notes := start.info.get("notes")):
        told += ["Of the LoRA to start from:", *notes]
    return told
