"""The gradients of all layers' lora_up and lora_down, which come at once when a pass is over."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from .folding import Sheet
from .unit import Some


class Fold(torch.autograd.Function):
    """Stands for the parameters of all layers in the graph, and gives them their gradients once all
    paths have added theirs to the sheets.

    used: called then; ended: called with the sheets after it, if they are over. weights: Lambda,
    [layers, positions]; None where it is 1. parameters: lora_up and lora_down of every layer in
    turn; others, where `into` are these and get their gradients without autograd, which takes its
    time for each. What lies behind each other gets them together then (wholes.py).
    Returns a scalar without a value.
    """

    @staticmethod
    def forward(
        ctx: Any,
        sheets: list[Sheet],
        used: Callable[[], None],
        ended: Callable[[list[Sheet]], None] | None,
        into: Sequence[Tensor],
        weights: Tensor | None,
        *parameters: Tensor,
    ) -> Tensor:
        ctx.sheets, ctx.used, ctx.ended, ctx.into = sheets, used, ended, into
        ctx.count = len(parameters)
        ctx.weights = None if weights is None else weights.detach()
        ctx.set_materialize_grads(False)
        return parameters[0].new_empty(())

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, _gradient: None) -> tuple:
        ctx.used()
        of_weights = None if ctx.weights is None else torch.zeros_like(ctx.weights)
        found: Some = [None] * (len(ctx.into) or ctx.count)
        for sheet in ctx.sheets:
            flat = None if of_weights is None else of_weights.view(-1)
            sheet.gradients(found, flat, to_wholes=bool(ctx.into))
        if ctx.ended is not None:
            ctx.ended(ctx.sheets)
        if ctx.into:
            add_gradients(ctx.into, found)
            found = [None] * ctx.count
        return (None, None, None, None, of_weights, *found)


def add_gradients(parameters: Sequence[Tensor], found: Some) -> None:
    """Adds gradients to those that the parameters have."""
    for parameter, gradient in zip(parameters, found, strict=True):
        if gradient is None:
            continue
        if parameter.grad is None:
            parameter.grad = gradient
        else:
            parameter.grad += gradient
