"""Several processes that train one adapter, each on its share of every batch, as torch's
DistributedDataParallel does. They start alike and average gradients before every step, so all hold
the same adapter and the same ranks at any time.

Every process draws the full batch from the same generator and computes its own part of it. The run
is therefore that of one process with the full batch, except for the order in which sums are
rounded. Start the processes with torchrun; torch.distributed must be initialised (gloo on CPUs,
nccl on GPUs).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.distributed as dist
from einops import pack, unpack
from torch import Tensor


@dataclass(frozen=True)
class Processes:
    """All `count` processes, of which this one has the number `rank`, from 0."""

    rank: int
    count: int

    @classmethod
    def joined(cls) -> Processes | None:
        """Returns the processes of torch.distributed; None where this process is alone."""
        if not (dist.is_available() and dist.is_initialized()) or dist.get_world_size() == 1:
            return None
        return cls(dist.get_rank(), dist.get_world_size())

    def share(self, batch_size: int) -> slice:
        """Returns this process's part of a batch. Raises ValueError where the parts would be
        unequal.
        """
        part, rest = divmod(batch_size, self.count)
        if rest:
            raise ValueError(
                f"batch_size is {batch_size}, which {self.count} processes can't share evenly: "
                f"give a multiple of {self.count}."
            )
        return slice(self.rank * part, (self.rank + 1) * part)

    @torch.no_grad()
    def average(self, tensors: Sequence[Tensor]) -> None:
        """Replaces each tensor by its mean over the processes, in place, in one exchange in
        fp32.
        """
        if not tensors:
            return
        flat, shapes = pack([t.detach().float() for t in tensors], "*")
        dist.all_reduce(flat)
        flat /= self.count
        for tensor, mean in zip(tensors, unpack(flat, shapes, "*"), strict=True):
            tensor.copy_(mean)

    def mean(self, value: Tensor) -> Tensor:
        """Returns the mean of a tensor over the processes; the tensor itself stays."""
        mean = value.detach().clone()
        self.average([mean])
        return mean
