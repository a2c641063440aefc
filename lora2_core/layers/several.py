"""Layers that get the same input, as one operation of autograd.

All of them compute when the first one is called, and so do their gradients once those of all
outputs are there: a GPU is given less work by the host, and the gradient of the input is added up
by the products that compute it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from .joined import Frozen, plus_path
from .operation import Operation, once
from .sharing import Given, plus_product
from .unit import Unit


class Several(Operation):
    """Computes the Linears of a unit from number `start` on, as many as there are `frozen`, with
    their paths.

    given: the input, where it needs no gradient; else None. over: gets True in the backward pass.
    """

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, _origin: Tensor, unit: Unit, start: int, frozen: Sequence[Frozen],
        given: Given | None, over: list[bool],
    ) -> tuple[Tensor, ...]:  # fmt: skip
        x_now, stop, shape = x.detach(), start + len(frozen), x.shape
        rows = x_now.reshape(-1, shape[-1])
        if given is None:
            down = unit.part(unit.down, start, stop)
            path = rows if rows.dtype == down.dtype else rows.to(down.dtype)
            hidden = F.linear(path, down).split_with_sizes(unit.lengths[start:stop], 1)
            ctx.save_for_backward(x, *hidden)
        else:
            hidden = given.hidden[start:stop]
            ctx.save_for_backward(*hidden)
        outputs, weights = [], []
        for layer, down_x, back in zip(frozen, hidden, unit.backs[start:stop], strict=True):
            output, weight = layer.output(x_now, rows)
            weights.append(weight)
            plus_path(output, down_x, back)
            if len(shape) != 2:  # no view, as torch makes one: the model may write into it
                output = output.view(*shape[:-1], output.shape[-1]).data
            outputs.append(output)
        ctx.frozen, ctx.unit, ctx.start, ctx.given = frozen, unit, start, given
        ctx.weights = weights
        ctx.over = over
        ctx.set_materialize_grads(False)
        return tuple(outputs)

    @staticmethod
    @once
    def backward(ctx: Any, *gradients: Tensor | None) -> tuple:
        unit, start, given, weights = ctx.unit, ctx.start, ctx.given, ctx.weights
        ctx.over.append(True)
        # the loss may live on, and with it whatever stands here
        ctx.unit = ctx.given = ctx.weights = None
        none = (None,) * 7
        came = [(i, g.reshape(-1, g.shape[-1])) for i, g in enumerate(gradients) if g is not None]
        dtype = unit.down.dtype
        if given is not None:
            hidden = ctx.saved_tensors
            for i, flat in came:
                given.add(start + i, flat if flat.dtype == dtype else flat.to(dtype), hidden[i])
            return none
        if not came:
            return none
        x, *hidden = ctx.saved_tensors
        stop, of_x = start + len(hidden), None
        rows = x.reshape(-1, x.shape[-1])
        of_hidden = hidden[0].new_empty((len(rows), sum(unit.lengths[start:stop])))
        of_each = of_hidden.split_with_sizes(unit.lengths[start:stop], 1)
        if len(came) < len(hidden):
            of_hidden.zero_()
        for i, flat in reversed(came):  # as autograd adds the gradients of layers alone
            of_path = flat if flat.dtype == dtype else flat.to(dtype)
            unit.add_up(start + i, torch.mm(of_path.t(), hidden[i]))
            torch.mm(of_path, unit.ups[start + i], out=of_each[i])
            of_x = ctx.frozen[i].back_into(of_x, flat, weights[i])
        path = rows if rows.dtype == dtype else rows.to(dtype)
        unit.add_downs(start, stop, torch.mm(of_hidden.t(), path))
        of_x = plus_product(of_x, of_hidden, unit.part(unit.down, start, stop))
        return of_x.view(x.shape), *none[1:]
