"""Advice that a run can give before its first step; it is shown in the node, nothing depends on
it.
"""

from __future__ import annotations

import comfy.model_management

from ...layers.layer import Component
from ...units import BYTES_PER_PARAMETER, MEGABYTE
from ..playground import PlaygroundSDXL
from .captions import strengths
from .run import HostRun

SLOW = 1e-3  # a learning rate that the playground hardly moves at
SIZE = 20_000_000  # parameters: below it a CPU is quick enough
UNTAKEN = "No other node takes the adapter, so it is kept in the loras folder at the end."
UNSAVED = "The adapter could not be saved, see the log: connect LoRA\u00b2 Save and run again."
FINISHED = "This run had ended before and had no step left: this is its adapter."


def hints(model, run: HostRun, positive: list | None = None) -> list[str]:
    """Sentences, most often none; the front end has them in other languages."""
    told = []
    if isinstance(model.model, PlaygroundSDXL) and 0 < run.training.learning_rate < SLOW:
        told.append("The Playground hardly learns at this learning_rate: try 5e-3.")
    device = comfy.model_management.get_torch_device()
    if device.type == "cpu" and sum(p.numel() for p in model.model.parameters()) > SIZE:
        told.append(
            "No GPU is used, so this takes long: LoRA\u00b2 Playground is the model to try things "
            "with."
        )
    if run.rank.budget_mb > 0 and not run.rank.rules.competes:
        told.append("budget_mb counts in adaptive mode only: here target_rank decides.")
    elif 0 < run.rank.budget_mb < one_rank(model, run):
        told.append("budget_mb is below one rank of every layer: many layers will have none.")
    if strengths(positive):
        told.append("The strength of a caption is not used in training.")
    start = run.start.start_from
    if start is not None and (notes := start.origin.file.notes):
        told += ["Of the LoRA to start from:", *notes]
    return told


def one_rank(model, run: HostRun) -> float:
    """Returns the MB of one rank in each of the model's chosen layers; 0 where it is not known."""
    try:
        chosen = run.target.chosen(model.model)
    except ValueError:  # the run says it
        return 0.0
    costs = (Component(module, 1, model.offload_device).cost for module in chosen.values())
    return sum(costs) * BYTES_PER_PARAMETER / MEGABYTE
