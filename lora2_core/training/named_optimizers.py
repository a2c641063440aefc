"""Optimizers by dotted name, such as torch.optim.RAdam, with arguments of their own.

Each is tried on a small parameter before a run: what it takes, and what it keeps of a parameter.
Where that can't follow ranks that move, the optimizer begins anew (layers/moments.py).
"""

from __future__ import annotations

import inspect
import json
from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module
from importlib.util import find_spec
from typing import Any

import torch
from torch import nn
from torch.optim import Optimizer

from ..layers.moments import all_follow, follows
from ..paths import quoted

# module -> the package to install; no other module is imported by name
MODULES = {
    "torch.optim": "torch", "pytorch_optimizer": "pytorch-optimizer",
    "schedulefree": "schedulefree", "prodigyopt": "prodigyopt",
    "prodigyplus": "prodigy-plus-schedule-free", "bitsandbytes.optim": "bitsandbytes",
    "torchao.optim": "torchao",
}  # fmt: skip
# set by the run
OURS = ("params", "lr", "fused", "foreach", "capturable", "differentiable", "maximize")
LONGEST = 2000  # characters of the arguments
# of the parameter that is tried: large enough for states that are kept in eight bits
TRIED = (64, 128)


def arguments_of(text: str) -> dict[str, Any]:
    """Returns the arguments of a JSON object, or of lines such as `betas = [0.9, 0.95]`, whose
    values are JSON. Raises ValueError for anything else.
    """
    if len(text) > LONGEST:
        raise ValueError(f"optimizer_args has {len(text)} characters: give at most {LONGEST}.")
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    try:
        if text.strip().startswith("{"):
            values = json.loads(text)
        else:
            pairs = [line.partition("=") for line in lines]
            values = {name.strip(): json.loads(value) for name, _, value in pairs}
    except (ValueError, RecursionError) as error:
        raise ValueError(
            f"optimizer_args is {quoted(text)}: write lines such as weight_decay = 0.01, or a JSON "
            "object."
        ) from error
    if fault := [name for name in values if not name.isidentifier() or name in OURS]:
        raise ValueError(
            f"optimizer_args has {quoted(fault[0])}, which is no argument to be set here."
        )
    return {k: tuple(v) if isinstance(v, list) else v for k, v in values.items()}


def class_of(name: str) -> type[Optimizer]:
    """Returns the optimizer of a dotted name. Raises ValueError where it is none, is not in one of
    MODULES, or its package is not installed.
    """
    module, _, last = name.rpartition(".")
    if module not in MODULES or not last.isidentifier() or last.startswith("_"):
        known = ", ".join(MODULES)
        raise ValueError(f"optimizer is {quoted(name)}: give a class of {known}.")
    if find_spec(module.partition(".")[0]) is None:
        raise ValueError(
            f"optimizer {name} needs the package {MODULES[module]}, which is not installed: "
            f"install it with `python -m pip install {MODULES[module]}`, or choose adamw."
        )
    try:
        kind = getattr(import_module(module), last, None)
    except Exception as error:  # whatever a foreign package raises when it is imported
        raise ValueError(f"optimizer {name} can't be imported ({error}): choose adamw.") from error
    if not (inspect.isclass(kind) and issubclass(kind, Optimizer)) or kind is Optimizer:
        raise ValueError(f"optimizer {name} is no optimizer: {module} has none of that name.")
    return kind


@dataclass(frozen=True)
class Tried:
    """Says what is known of an optimizer that was tried.

    follows: all that it keeps of a parameter follows ranks that move. squares: it keeps mean
    squared gradients that do. taken: it keeps something else by their name. averages: its weights
    are others while it trains (schedule-free ones).
    """

    follows: bool
    squares: bool
    taken: bool
    averages: bool


def make(name: str, arguments: str, weights: list, learning_rate: float) -> Optimizer:
    """Returns the optimizer of a dotted name for weights, or for torch's groups of them."""
    return class_of(name)(weights, lr=learning_rate, **arguments_of(arguments))


def tried(name: str, arguments: str) -> Tried:
    """Tries an optimizer for a few steps. Raises ValueError where it can't train."""
    kind, device = class_of(name), "cuda" if torch.cuda.is_available() else "cpu"
    with torch.inference_mode(False), torch.enable_grad():
        generator = torch.Generator().manual_seed(0)
        first = torch.randn(TRIED, generator=generator)
        parameter = nn.Parameter(first.to(device, copy=True))
        try:
            optimizer = make(name, arguments, [parameter], 1e-2)
            switch(optimizer, "train")
            for _ in range(3):
                parameter.grad = torch.randn(TRIED, generator=generator).to(device)
                optimizer.step()
        except Exception as error:  # whatever a foreign optimizer raises
            reason = " ".join(str(error).split())[:200] or type(error).__name__
            raise ValueError(
                f"optimizer {name} can't train here ({type(error).__name__}: {reason}): check "
                "optimizer_args, or choose adamw."
            ) from error
        state = optimizer.state.get(parameter, {})
        averages = callable(getattr(kind, "eval", None))
        taken = "exp_avg_sq" in state
        squares = taken and follows("exp_avg_sq", state, parameter)
        return Tried(all_follow(state, parameter), squares, taken and not squares, averages)


def switch(optimizer: Optimizer, to: str) -> None:
    """Calls `train` or `eval` of an optimizer whose weights are others while it trains."""
    method: Callable[[], None] | None = getattr(optimizer, to, None)
    if method is not None:
        method()
