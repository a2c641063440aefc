"""Gives advice before the first step. The node shows it; nothing depends on it."""

from __future__ import annotations

import comfy.model_management
from comfy.patcher_extension import WrappersMP

from ...adapter.origin import Note
from ...layers.layer import Component
from ...units import megabytes
from ..playground import PlaygroundSDXL
from .captions import has_strength
from .choices import Choices
from .frozen import has_quantised_layers

SLOW = 1e-3  # learning rate: below it the playground hardly learns
LARGE_FOR_CPU = 20_000_000  # parameters: below it a CPU is quick enough
UNTAKEN = "No other node takes the adapter, so it is kept in the loras folder at the end."
UNSAVED = "The adapter could not be saved, see the log: connect LoRA\u00b2 Save and run again."
FINISHED = "This run had ended before and had no step left: this is its adapter."
AROUND = "Wrappers of other nodes around this model are not used in training: {0}."
# what wraps each forward pass of a model; others wrap its sampling
OF_A_PASS = (WrappersMP.APPLY_MODEL, WrappersMP.DIFFUSION_MODEL)
COMPILED = "torch.compile"  # the key of the host's own wrapper, which changes no values
RESTING = "Some layers get no gradient and learn nothing: the log says which."


def hints(model, choices: Choices, positive: list | None = None) -> list[Note]:
    """Returns sentences, most often none; the front end has them in other languages."""
    said: list[Note] = []
    if isinstance(model.model, PlaygroundSDXL) and 0 < choices.training.learning_rate < SLOW:
        said.append("The Playground hardly learns at this learning_rate: try 5e-3.")
    device = comfy.model_management.get_torch_device()
    if device.type == "cpu" and sum(p.numel() for p in model.model.parameters()) > LARGE_FOR_CPU:
        said.append(
            "No GPU is used, so this takes long: LoRA\u00b2 Playground is the model to try things "
            "with."
        )
    rank = choices.rank
    if rank.budget_mb > 0 and not rank.rules.competes:
        said.append("budget_mb counts in adaptive mode only: here target_rank decides.")
    elif 0 < rank.budget_mb < one_rank(model, choices):
        said.append("budget_mb is below one rank of every layer: many layers will have none.")
    if choices.straight_through and not quantised(model, choices):
        said.append("This model has no quantised layers: straight_through changes nothing.")
    if has_strength(positive):
        said.append("The strength of a caption is not used in training.")
    if names := wrappers_of(model):
        said.append([AROUND, ", ".join(names)])
    return said + choices.start.notes()


def wrappers_of(model) -> list[str]:
    """Returns what wraps each forward pass of a ModelPatcher, by the names that nodes give it."""
    keys = [key for kind in OF_A_PASS for key in getattr(model, "wrappers", {}).get(kind, {})]
    names = [str(key or "without a name") for key in keys if key != COMPILED]
    if "model_function_wrapper" in model.model_options:
        names.append("model_function_wrapper")
    return list(dict.fromkeys(names))


def quantised(model, choices: Choices) -> bool:
    """Returns whether the models that are trained have quantised layers of the host."""
    patchers = [model, choices.text.clip.patcher] if choices.text.used else [model]
    return any(has_quantised_layers(patcher.model.modules()) for patcher in patchers)


def one_rank(model, choices: Choices) -> float:
    """Returns the MB of one rank in each of the model's chosen layers, 0 where nothing can be
    chosen.
    """
    try:
        layers = choices.target.chosen(model.model)
    except ValueError:  # the training raises it
        return 0.0
    costs = (Component(module, 1, model.offload_device).cost for module in layers.values())
    return megabytes(sum(costs))
