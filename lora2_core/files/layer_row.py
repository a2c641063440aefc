"""A row of `lora2.layers`: what LoRA² writes into a file of each layer that was trained, rank 0
included.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from ..adapter.lora import LoraLayer
from ..adapter.origin import Learned

LARGEST = 1e9  # of a nu or a sensitivity; trained ones lie far below
LARGEST_COUNT = 2**31 - 1  # of a size, a rank or a side of a kernel: int32, as in other loaders
MOST_SIDES = 3  # of a kernel
LENGTHS = (7, 8)  # values of a row; files of the first release have no sensitivity


@dataclass(frozen=True)
class LayerRow:
    """One layer. In JSON a row is the list of these values in this order.

    base: the layer's name in the file.
    name: its module path.
    out, fan_in: the sizes of its update, a matrix out x fan_in.
    kernel: the sides of a convolution's kernel, one to three; 0 in JSON where there is none.
    rank: what the training learned; the file may hold less.
    nu: how fast importance falls along its rank positions, 0 for fixed ranks.
    sensitivity: how much the loss depends on its energy; None in files of the first release.
    """

    base: str
    name: str
    out: int
    fan_in: int
    kernel: tuple[int, ...] | None
    rank: int
    nu: float
    sensitivity: float | None

    @classmethod
    def of(cls, base: str, name: str, layer: LoraLayer, learned: Learned) -> LayerRow:
        """Returns the row of a layer, numbers rounded to six digits."""
        return cls(
            base, name, layer.up.shape[0], layer.down.shape[1], layer.kernel,
            learned.ranks.get(name, layer.rank),
            float(f"{learned.nu.get(name, 0):.6g}"),
            float(f"{learned.sensitivity.get(name, 1):.6g}"),
        )  # fmt: skip

    def to_json(self) -> list:
        """Returns the row as the file has it."""
        kernel = list(self.kernel) if self.kernel else 0
        row = [self.base, self.name, self.out, self.fan_in, kernel, self.rank, self.nu]
        return row if self.sensitivity is None else [*row, self.sensitivity]

    @classmethod
    def from_json(cls, row: object) -> LayerRow | None:
        """Returns the row that a value from a file stands for; None where it isn't one."""
        if not isinstance(row, list) or len(row) not in LENGTHS:
            return None
        base, name, out, fan_in, kernel, rank, nu, sensitivity = [*row, None][:8]
        is_kernel = isinstance(kernel, list) and 1 <= len(kernel) <= MOST_SIDES
        sides = kernel if is_kernel else [kernel]
        numbers = (nu, 1.0 if sensitivity is None and len(row) == 7 else sensitivity)
        valid = (
            isinstance(base, str) and isinstance(name, str)
            and all(isinstance(n, int) and 0 <= n <= LARGEST_COUNT
                    for n in (out, fan_in, rank, *sides))
            and (kernel == 0 or (is_kernel and 0 not in sides))
            and all(isinstance(x, (int, float)) for x in numbers)
            and -LARGEST <= numbers[0] <= LARGEST and 0 <= numbers[1] <= LARGEST
        )  # fmt: skip
        if not valid:
            return None
        kernel = tuple(kernel) if kernel else None
        return cls(base, name, out, fan_in, kernel, rank, nu, sensitivity)

    def fits(self, layer: LoraLayer) -> bool:
        """Returns whether the row's shape is the layer's; a kernel of one point is as none."""
        kernel, other = (k if k and math.prod(k) > 1 else None for k in (self.kernel, layer.kernel))
        return (self.out, self.fan_in, kernel) == (layer.up.shape[0], layer.down.shape[1], other)
