"""The tensors that the paths compute with: lora_down with Lambda folded in, and lora_up, of all
layers at once, in the dtype that each layer computes in.

They are made once a step, and the gradients of all of them come back at once: on a GPU, an
operation on a few values costs as much as one on thousands of them.

fp16 holds no number above 65,504, and with the paper's init (Lambda A) x passes that. So in fp16
every position is scaled to a lora_down no longer than 1, which makes (Lambda A) x no longer than x.
lora_up is divided by the same power of two: no other bit changes.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from .layer import Component

# how far a position is scaled in fp16, as a power of two: further, and lora_up might overflow
LARGEST = 14.0
# layers whose tensors are computed together at most: what they need meanwhile stays small
TOGETHER = 128
Pair = tuple[Tensor, Tensor]
Some = list[Tensor | None]


def path_dtype(x: Tensor) -> torch.dtype:
    """Returns the dtype in which the path computes on inputs like x. The CPU has no fast fp16, so
    fp32 is as quick there, and exact.
    """
    if x.dtype == torch.float16 and x.device.type == "cpu":
        return torch.float32
    return x.dtype


def power_of_two(lengths: Tensor) -> Tensor:
    """Returns for each length the power of two that makes it at most 1; 1 where it is."""
    return torch.exp2(-lengths.clamp(min=1.0).log2().ceil().clamp(max=LARGEST))


def alike(sizes: Sequence[object], device: torch.device) -> list[list[int]]:
    """Returns the indices of equal sizes, up to TOGETHER of them; each alone on a CPU, where
    operations cost what they compute.
    """
    groups: dict[tuple, list[int]] = {}
    for index, size in enumerate(sizes):
        groups.setdefault((size, index if device.type == "cpu" else 0), []).append(index)
    return [
        group[first : first + TOGETHER]
        for group in groups.values()
        for first in range(0, len(group), TOGETHER)
    ]


def behind(tensors: Sequence[Tensor | None]) -> Tensor:
    """Returns tensors behind each other; a single one itself."""
    return tensors[0] if len(tensors) == 1 else torch.cat(tensors)


def hand_out(values: Tensor, group: list[int], places: Some, lengths: Sequence[int]) -> None:
    """Splits `values` and puts the parts, views of it, to the group's places."""
    parts = values.split([lengths[i] for i in group])
    for index, part in zip(group, parts, strict=True):
        places[index] = part


def cast(tensors: Sequence[Tensor], dtype: torch.dtype) -> list[Tensor]:
    """Returns contiguous copies of another dtype, which lie behind each other."""
    sizes = [t.numel() for t in tensors]
    values = torch.empty(sum(sizes), dtype=dtype, device=tensors[0].device)
    copies = [v.view(t.shape) for v, t in zip(values.split(sizes), tensors, strict=True)]
    torch._foreach_copy_(copies, tensors)
    return copies


def divided(ups: Sequence[Tensor], scales: Sequence[Tensor]) -> list[Tensor]:
    """Returns each lora_up, or its gradient, in fp32 with its columns divided by its scales."""
    places: Some = [None] * len(ups)
    for group in alike([u.shape for u in ups], ups[0].device):
        values = torch.stack([ups[i] for i in group]).float()
        values /= torch.stack([scales[i] for i in group])[:, None]
        for index, part in zip(group, values.unbind(), strict=True):
            places[index] = part
    return places


class Fold(torch.autograd.Function):
    """Casts lora_down times Lambda, and lora_up, of layers that compute in one dtype.

    weights: Lambda of all the layers' positions, behind each other; None where it is 1. count: of
    layers. tensors: lora_down of every layer, then lora_up of every layer, or none of them where
    they stay as they are. used: called once they have all done their work. Returns as many.
    """

    @staticmethod
    def forward(
        ctx: Any,
        used: Callable[[], None],
        dtype: torch.dtype,
        weights: Tensor | None,
        count: int,
        *tensors: Tensor,
    ) -> tuple:
        downs, ups, ctx.used = tensors[:count], tensors[count:], used
        ctx.lengths, ctx.count, ctx.device = [len(d) for d in downs], count, downs[0].device
        ctx.factors = weights.split(ctx.lengths) if weights is not None else None
        ctx.downs = downs if weights is not None else None
        scaled, scales = dtype == torch.float16, [None] * count
        places: Some = [None] * count
        for group in alike([d.shape[1] for d in downs], ctx.device):
            values = behind([downs[i] for i in group])
            if ctx.factors is not None:
                values = values * behind([ctx.factors[i] for i in group])[:, None]
            if scaled:
                scale = power_of_two(values.norm(dim=1))
                values = values * scale[:, None]
                hand_out(scale, group, scales, ctx.lengths)
            hand_out(values.to(dtype), group, places, ctx.lengths)
        ctx.scales = scales if scaled else None
        ctx.set_materialize_grads(False)
        if scaled:
            ups = tuple(divided(ups, scales))
        return (*places, *(cast(ups, dtype) if ups else ()))

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor | None) -> tuple:
        ctx.used()
        of_downs, of_ups = list(gradients[: ctx.count]), list(gradients[ctx.count :])
        of_weights: Some = [None] * ctx.count
        used = [i for i, gradient in enumerate(of_downs) if gradient is not None]
        for group in alike([of_downs[i].shape[1] for i in used], ctx.device):
            group = [used[i] for i in group]
            values = behind([of_downs[i] for i in group]).float()
            if ctx.scales is not None:
                values = values * behind([ctx.scales[i] for i in group])[:, None]
            if ctx.factors is not None:
                products = (values * behind([ctx.downs[i] for i in group])).sum(1)
                hand_out(products, group, of_weights, ctx.lengths)
                values = values * behind([ctx.factors[i] for i in group])[:, None]
            hand_out(values, group, of_downs, ctx.lengths)
        used = [i for i, gradient in enumerate(of_ups) if gradient is not None]
        if used:
            some = [of_ups[i] for i in used]
            if ctx.scales is not None:
                some = divided(some, [ctx.scales[i] for i in used])
            else:
                some = cast(some, torch.float32)
            for i, gradient in zip(used, some, strict=True):
                of_ups[i] = gradient
        weights = None
        if ctx.factors is not None:
            pairs = zip(of_weights, ctx.factors, strict=True)
            weights = torch.cat([torch.zeros_like(f) if g is None else g for g, f in pairs])
        return (None, None, weights, None, *of_downs, *of_ups)


class Folded:
    """The tensors that each layer's path computes with, made for all layers at once when the first
    of them asks, and kept until `forget`, or until a parameter has changed.
    """

    def __init__(self, components: Sequence[Component]):
        self.components, self.folds = components, False
        self.weights: Tensor = torch.empty(0)  # Lambda, [layers, at least every capacity]
        self.dtypes: list[torch.dtype | None] = [None] * len(components)
        self.made: dict[tuple[int, bool], tuple[tuple, Pair]] = {}
        self.index: tuple[tuple, Tensor] | None = None

    def forget(self) -> None:
        """Frees the tensors; they are made again when they are needed."""
        self.made.clear()

    def renew(self, weights: Tensor, *, folds: bool) -> None:
        """Takes the Lambda of the next pass. folds: whether any of it is not 1."""
        self.weights, self.folds = weights, folds
        self.forget()

    def of(self, row: int, x: Tensor) -> Pair:
        """Returns (lora_down with Lambda, lora_up) of a layer for inputs like x, in the dtype that
        its path computes in; differentiable where gradients are computed.
        """
        dtype, component = path_dtype(x), self.components[row]
        if dtype == torch.float32 and not self.folds:
            return component.lora_down, component.lora_up
        if self.dtypes[row] != dtype:
            self.dtypes[row] = dtype
            self.made.pop((row, True), None)
            self.made.pop((row, False), None)
        graph = torch.is_grad_enabled()
        if not self.ready(row, graph):
            self.make(dtype, graph)
        return self.made[row, graph][1]

    def state(self, row: int) -> tuple:
        """Returns what changes when a layer's parameters do."""
        down, up = self.components[row].lora_down, self.components[row].lora_up
        return id(down), down._version, id(up), up._version

    def ready(self, row: int, graph: bool) -> bool:
        """Returns whether a layer's tensors are there, and still those of its parameters."""
        state, _ = self.made.get((row, graph), (None, None))
        return state is not None and state == self.state(row)

    def make(self, dtype: torch.dtype, graph: bool) -> None:
        """Makes the tensors of all layers that are known to compute in this dtype."""
        rows = [
            row
            for row, component in enumerate(self.components)
            if self.dtypes[row] == dtype and component.rank and not self.ready(row, graph)
        ]
        downs = [self.components[row].lora_down for row in rows]
        ups = [self.components[row].lora_up for row in rows]
        tensors = downs if dtype == torch.float32 else downs + ups

        def used() -> None:
            for row in rows:
                self.made.pop((row, True), None)

        # a checkpoint around the first layer that asks would find them made in its second pass
        with torch.autograd.graph.saved_tensors_hooks(lambda t: t, lambda t: t):
            weights = self.weights_of(rows) if self.folds else None
            made = Fold.apply(used, dtype, weights, len(rows), *tensors)
        made_downs, made_ups = made[: len(rows)], made[len(rows) :] or ups
        for row, down, up in zip(rows, made_downs, made_ups, strict=True):
            self.made[row, graph] = self.state(row), (down, up)

    def weights_of(self, rows: list[int]) -> Tensor:
        """Returns Lambda of all positions of these layers behind each other."""
        width = self.weights.shape[1]
        capacities = tuple(self.components[row].capacity for row in rows)
        key = width, tuple(rows), capacities
        if self.index is None or self.index[0] != key:
            pairs = zip(rows, capacities, strict=True)
            with torch.inference_mode(False):  # a preview may ask first, and training then uses it
                parts = [torch.arange(capacity) + row * width for row, capacity in pairs]
                self.index = key, torch.cat(parts).to(self.weights.device)
        return self.weights.reshape(-1).index_select(0, self.index[1])
