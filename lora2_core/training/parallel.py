"""One adapter trained by several processes, each on its share of every batch, as torch's
DistributedDataParallel does: the same start, gradients averaged before every step, so that all
processes hold the same adapter and the same ranks at any time.

Every process draws the whole batch from the same generator and computes its own part of it: so the
run is that of one process at the whole batch size, but for the order in which sums are rounded.
Start them with torchrun; torch.distributed must be initialised (gloo on CPUs, nccl on GPUs).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.distributed as dist
from torch import Tensor


@dataclass(frozen=True)
class Processes:
    """This process among `count`, from 0."""

    rank: int
    count: int

    @classmethod
    def joined(cls) -> Processes | None:
        """Returns those of torch.distributed; None where this process is alone."""
        if not (dist.is_available() and dist.is_initialized()) or dist.get_world_size() == 1:
            return None
        return cls(dist.get_rank(), dist.get_world_size())

    def share(self, batch_size: int) -> slice:
        """Returns this process's part of a batch; ValueError where the parts would not be equal."""
        part, rest = divmod(batch_size, self.count)
        if rest:
            raise ValueError(
                f"batch_size is {batch_size}, which {self.count} processes can't share evenly: "
                f"give a multiple of {self.count}."
            )
        return slice(self.rank * part, (self.rank + 1) * part)

    @torch.no_grad()
    def average(self, tensors: Sequence[Tensor]) -> None:
        """Makes each tensor its mean over the processes, in place, in one exchange of fp32."""
        if not tensors:
            return
        flat = torch.cat([t.detach().reshape(-1).float() for t in tensors])
        dist.all_reduce(flat)
        flat /= self.count
        sizes = [t.numel() for t in tensors]
        for tensor, mean in zip(tensors, flat.split(sizes), strict=True):
            tensor.copy_(mean.view_as(tensor))

    def mean(self, value: Tensor) -> Tensor:
        """Returns the mean of a tensor over the processes; the tensor stays."""
        mean = value.detach().clone()
        self.average([mean])
        return mean
