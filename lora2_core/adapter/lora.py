"""A finished adapter: a low-rank update for each layer, and cuts to any size.

W = W0 + lora_up @ lora_down, with the scale folded in. In the singular basis, position i of a layer
carries the i-th singular value of its update. The first positions are then the best approximation
of their rank (Eckart-Young), so a cut removes positions from the end.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property

import torch
from torch import Tensor

from ..checks import check_range
from ..units import BYTES_PER_PARAMETER, MEGABYTE
from .allocation import share_out
from .kernels import as_kernels, as_matrix, as_point_kernels
from .origin import Origin
from .other_kinds import OtherChange
from .singular import in_singular_basis, reduced


@dataclass(frozen=True)
class LoraLayer:
    """The update up @ down of one layer: up [out, rank], down [rank, fan_in].

    kernel: the sides of a convolution's kernel, (height, width) in two dimensions; fan_in is then
    in * height * width.
    """

    up: Tensor
    down: Tensor
    kernel: tuple[int, ...] | None = None

    @property
    def rank(self) -> int:
        return self.down.shape[0]

    @property
    def cost(self) -> int:
        """Returns the parameters of one rank position."""
        return self.up.shape[0] + self.down.shape[1]

    @cached_property
    def energy(self) -> Tensor:
        """Returns |up_i|^2 |down_i|^2 of each position, fp64 (rank,); in the singular basis these
        are the squared singular values.
        """
        up = torch.linalg.vector_norm(self.up, dim=0, dtype=torch.float64)
        down = torch.linalg.vector_norm(self.down, dim=1, dtype=torch.float64)
        return (up * down).square()

    @property
    def norm(self) -> float:
        """Returns the Frobenius norm of up @ down, in any basis, through the rank x rank Gram
        matrices: |U D|^2 = sum (U^T U) * (D D^T).
        """
        up, down = self.up.double(), self.down.double()
        return math.sqrt(max(0.0, float(((up.T @ up) * (down @ down.T)).sum())))

    def first(self, rank: int) -> LoraLayer:
        """Returns the layer with its first `rank` positions only, which take no more memory than
        they need.
        """
        if rank >= self.rank:
            return replace(self, up=self.up.contiguous(), down=self.down.contiguous())
        return replace(self, up=self.up[:, :rank].contiguous(), down=self.down[:rank].clone())

    def unpadded(self) -> LoraLayer:
        """Returns the layer without zero positions at its end; files of the uniform form pad with
        such positions.
        """
        if self.rank and self.up[:, -1].any() and self.down[-1].any():
            return self
        used = self.energy.nonzero()
        return self.first(int(used[-1]) + 1 if len(used) else 0)

    def rotated(self) -> LoraLayer:
        """Returns the layer in its singular basis, up and down each with the square roots of the
        singular values. A rank above what the shape allows is brought down to that.
        """
        too_many = self.rank > min(len(self.up), self.down.shape[1])
        pair = reduced(self.up, self.down) if too_many else (self.up, self.down)
        up, down = in_singular_basis(*pair)
        return replace(self, up=up.to(self.up.dtype), down=down.to(self.down.dtype))

    def delta(self) -> Tensor:
        """Returns the dense update, [out, fan_in] or [out, in, *kernel]."""
        product = self.up @ self.down
        return product if self.kernel is None else as_kernels(product, self.kernel)

    def file_tensors(self) -> tuple[Tensor, Tensor]:
        """Returns (lora_up, lora_down) in the shapes of a file: those of kernels for a
        convolution.
        """
        if self.kernel is None:
            return self.up, self.down
        return as_point_kernels(self.up, len(self.kernel)), as_kernels(self.down, self.kernel)

    @classmethod
    def from_tensors(cls, up: Tensor, down: Tensor) -> LoraLayer:
        """Returns the layer of a lora_up and a lora_down in the shapes of a file."""
        kernel = tuple(down.shape[2:]) or None
        return cls(as_matrix(up), as_matrix(down), kernel)


@dataclass(frozen=True)
class RankedLora:
    """An adapter: its layers by name, and what is known of where it comes from.

    singular: every layer is in its singular basis, so that its first positions are its best ones.
    others: changes of layers that are no low-rank pair, by the layer's name. No cut touches them.
    """

    layers: Mapping[str, LoraLayer]
    origin: Origin = Origin()
    singular: bool = False
    others: Mapping[str, OtherChange] = field(default_factory=dict)

    @property
    def ranks(self) -> dict[str, int]:
        return {name: layer.rank for name, layer in self.layers.items()}

    @property
    def parameters(self) -> int:
        return sum(layer.rank * layer.cost for layer in self.layers.values())

    @property
    def mean_rank(self) -> float:
        """Returns the mean rank over all layers that were trained, rank 0 included, weighted by
        their size: the parameters over those of one rank in each layer.
        """
        return self.parameters / max(1, sum(layer.cost for layer in self.layers.values()))

    def megabytes(self, bytes_per_parameter: int = BYTES_PER_PARAMETER) -> float:
        """Returns the size of the tensors in MB (1e6 bytes); other changes than pairs have the
        precision that they came with.
        """
        return (self.parameters * bytes_per_parameter + self.other_bytes) / MEGABYTE

    @property
    def other_bytes(self) -> int:
        """Returns the bytes of the changes that are no low-rank pair."""
        return sum(change.bytes for change in self.others.values())

    def rotated(self) -> RankedLora:
        """Returns the adapter with every layer in its singular basis."""
        layers = {n: layer.rotated() for n, layer in self.layers.items()}
        return replace(self, layers=layers, singular=True)

    def energies(self) -> list[Tensor]:
        """Returns the energy of each position, a tensor a layer, fp64 (rank,), on the CPU."""
        return [layer.energy.cpu() for layer in self.layers.values()]

    def worths(self, energies: list[Tensor]) -> list[Tensor]:
        """Returns how much each position matters: its energy times the sensitivity of its layer, 1
        where that is not known.
        """
        sensitivity = self.origin.learned.sensitivity
        return [e * sensitivity.get(n, 1.0) for n, e in zip(self.layers, energies, strict=True)]

    def within(self, parameters: float) -> RankedLora:
        """Returns the adapter cut to at most so many parameters. The positions with the least
        worth per parameter go first, over all layers; a layer may end at rank 0.

        Expects the singular basis, where energy falls along each layer.
        """
        if parameters >= self.parameters:
            return self
        worths = self.worths(self.energies())
        ranks = share_out(worths, [y.cost for y in self.layers.values()], parameters)
        cut = {n: y.first(r) for (n, y), r in zip(self.layers.items(), ranks, strict=True)}
        return replace(self, layers=cut)

    def truncated(self, keep: float) -> RankedLora:
        """Returns the adapter cut to a share of its parameters, 0 < keep <= 1, as `within` cuts."""
        check_range("keep", keep, 1e-6, 1)
        return self.within(keep * self.parameters)
