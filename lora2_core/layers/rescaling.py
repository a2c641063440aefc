"""Keeps the updates of many layers as they are while Lambda changes, with a few operations."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from .folding import alike
from .layer import Component
from .moments import MOMENTS, Moments, turned
from .wholes import Whole


@torch.no_grad()
def rescale(
    layers: Sequence[Component],
    rows: Sequence[int],
    ratio: Tensor,
    moments: Moments,
    wholes: Sequence[Whole] = (),
) -> None:
    """Divides lora_up of the layers of these rows by `ratio` [layers, positions], by which Lambda
    was multiplied, so that the updates stay; the optimizer's moments follow. wholes: parameters
    that lie behind each other. The ratio of all other layers is 1.
    """
    numbers = {id(layer.lora_up): row for row, layer in enumerate(layers)}
    joined = {
        whole: [numbers[id(member)] for member in whole.members]
        for whole in wholes
        if whole.kept and all(id(member) in numbers for member in whole.members)
    }
    rescale_wholes(joined, ratio)
    apart = set(rows).difference(*joined.values())
    rows = [row for row in rows if row in apart]
    for group in alike([layers[row].capacity for row in rows], ratio.device):
        some = [rows[i] for i in group]
        ups = [layers[row].lora_up for row in some]
        columns = Columns(some, ups)
        torch._foreach_div_(ups, columns.of(ratio))
        kept = [moments(up) for up in ups]
        for name in sorted({name for each in kept for name in each}):
            there = [i for i, each in enumerate(kept) if name in each]
            factors = columns.of(turned(name, ratio, 1 / ratio, kept[there[0]][name]))
            torch._foreach_mul_([kept[i][name] for i in there], [factors[i] for i in there])


def rescale_wholes(wholes: dict[Whole, list[int]], ratio: Tensor) -> None:
    """Does so for lora_up of one shape in front of each other, by the rows of the layers."""
    if not wholes:
        return
    rows = torch.tensor([row for some in wholes.values() for row in some])
    of_all = ratio.index_select(0, rows.to(ratio.device, non_blocking=True))
    for whole, own in zip(wholes, of_all.split([len(s) for s in wholes.values()]), strict=True):
        own = own[:, None, : whole.values.shape[-1]]
        whole.values.div_(own)
        for name, moment in (whole.kept or {}).items():
            if name in MOMENTS:
                moment.mul_(turned(name, own, 1 / own, own))


class Columns:
    """Gives factors of rank positions the shapes of these layers' lora_up, [out, width]; all of
    them have the same width.
    """

    def __init__(self, rows: Sequence[int], ups: Sequence[Tensor]):
        self.rows, self.outs, self.width = rows, [up.shape[0] for up in ups], ups[0].shape[1]
        if len(rows) > 1:
            numbers = torch.tensor(rows).repeat_interleave(torch.tensor(self.outs))
            self.numbers = numbers.to(ups[0].device, non_blocking=True)

    def of(self, factors: Tensor) -> Sequence[Tensor]:
        """Returns the factors [layers, positions] of each layer."""
        if len(self.rows) == 1:
            return [factors[self.rows[0], : self.width]]
        return factors[:, : self.width].index_select(0, self.numbers).split(self.outs)
