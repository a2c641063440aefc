"""What the null GPU has counted, read from inside its process, and values for what it can't say."""

from __future__ import annotations

import ctypes
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from lora2_core.host.training.ahead import Ahead, Fetched
from lora2_core.host.training.upcoming import Ring
from lora2_core.layers import adapters, turning
from lora2_core.layers.adapters import Adapters
from lora2_core.training import together
from lora2_core.training.first_gradients import FirstGradients
from lora2_core.training.optimizers import TwoOptimizers

FIELDS = (
    "kernel", "gemm", "conv", "h2d", "d2h", "d2d", "memset", "sync", "mallocs", "frees",
    "h2d_bytes", "d2h_bytes",
)  # fmt: skip
LAUNCHES = FIELDS[:7]
library = ctypes.CDLL(None)  # this process, in which the null GPU was loaded first


def counts() -> dict[str, int]:
    """Returns everything that was counted since the process began."""
    buffer = (ctypes.c_long * len(FIELDS))()
    library.nullgpu_counts(buffer)
    return dict(zip(FIELDS, buffer, strict=True))


@dataclass
class Work:
    """What some steps did: launches (kernels, products, convolutions, copies, memsets), times that
    the host waited, seconds of processor time in all threads, MB copied to the card.
    """

    launches: int = 0
    syncs: int = 0
    seconds: float = 0.0
    megabytes: float = 0.0


@contextmanager
def counted() -> Iterator[Work]:
    """Yields a Work that holds at the end what was done inside."""
    work, before, began = Work(), counts(), time.process_time()
    yield work
    work.seconds = time.process_time() - began
    done = {name: value - before[name] for name, value in counts().items()}
    work.launches, work.syncs = sum(done[name] for name in LAUNCHES), done["sync"]
    work.megabytes = done["h2d_bytes"] / 1e6


@contextmanager
def ordered(broken: str = "") -> Iterator[dict[str, int]]:
    """Yields a dict that holds at the end how many copies to the card there were, and how many of
    them went into memory that another stream may still have read, or were read too early; and how
    often a layer computed with weights that were fetched ahead.

    broken: a wait that is left out, so that the count can be seen to fail: `read` of copies for
    their place, `arrived` of layers for their copies.
    """
    found = {"ahead": 0}
    start, lend, give_back, readers = Ahead.start, Ahead.lend, Ahead.give_back, Ring.readers

    def started(self: Ahead, *args) -> None:
        start(self, *args)
        if self.buffer is not None:
            library.nullgpu_watch(*memory(self.buffer.data_ptr(), len(self.buffer)))

    def read(self: Ahead, fetched: Fetched, when: int) -> None:
        """Tells that a layer reads its copies: 0 before, 1 after it."""
        first = self.buffer.data_ptr() + fetched.begin % self.ring.size
        stream = ctypes.c_void_p(self.compute.cuda_stream)
        library.nullgpu_reading(*memory(first, self.sizes[fetched.module]), stream, when)

    def lent(self: Ahead, fetched: Fetched) -> None:
        if broken == "arrived":
            lend(self, replace(fetched, arrived=self.compute.record_event()))
        else:
            lend(self, fetched)
        found["ahead"] += 1
        read(self, fetched, 0)

    def given_back(self: Ahead, fetched: Fetched) -> None:
        read(self, fetched, 1)
        give_back(self, fetched)

    def forgotten(self: Ring, end: int) -> Iterator[Any]:
        list(readers(self, end))
        return iter(())

    Ahead.start, Ahead.lend, Ahead.give_back = started, lent, given_back
    if broken == "read":
        Ring.readers = forgotten
    library.nullgpu_order(1)
    try:
        yield found
    finally:
        Ahead.start, Ahead.lend, Ahead.give_back = start, lend, give_back
        Ring.readers = readers
        found |= {"copies": library.nullgpu_copies(), "unordered": library.nullgpu_unordered()}
        library.nullgpu_order(0)


def memory(address: int, size: int) -> tuple:
    """Returns a part of the card's memory as C has it."""
    return ctypes.c_void_p(address), ctypes.c_size_t(size)


def histogram(path: str) -> list[tuple[int, str]]:
    """Returns the launches by kernel, most first, since library.nullgpu_trace(1)."""
    library.nullgpu_names(path.encode())
    with open(path, encoding="utf-8") as file:
        rows = [line.rstrip("\n").split("\t", 1) for line in file]
    return sorted(((int(count), name) for count, name in rows), reverse=True)


@contextmanager
def with_values() -> Iterator[None]:
    """Solves for singular bases of true size inside: what comes from the card has no values."""
    real = turning.together_to

    def together_to(tensors: list[Tensor], device: torch.device) -> list[Tensor]:
        moved = real(tensors, device)
        if device.type != "cpu":
            return moved
        return [torch.eye(t.shape[-1], dtype=t.dtype).repeat(len(t), 1, 1) for t in moved]

    turning.together_to = together_to
    try:
        yield
    finally:
        turning.together_to = real


def scripted(*, moving: bool) -> None:
    """Makes up for values that nothing computes: ranks that are read back stay as they are, and
    with `moving` all rates count as changed; rows are not made orthogonal; counts of steps are
    equal. What an optimizer reads is 1, and true: no weight is all zero (Prodigy keeps a copy).
    """
    follow, listed = Adapters.follow_rates, Tensor.tolist
    step, item, truth = TwoOptimizers.step, Tensor.item, Tensor.__bool__

    def one(tensor: Tensor):
        value = item(tensor)  # waits as it would
        return type(value)(1) if tensor.is_cuda else value

    def stepped(self: TwoOptimizers) -> None:
        Tensor.item = one
        Tensor.__bool__ = lambda tensor: truth(tensor) or tensor.is_cuda
        try:
            step(self)
        finally:
            Tensor.item, Tensor.__bool__ = item, truth

    def follow_rates(self: Adapters, optimizer=None):
        def read(tensor: Tensor):
            listed(tensor)  # waits as it would
            return [list(self.ranks.values()), [int(moving)] * len(self.ranks)]

        Tensor.tolist = read
        try:
            return follow(self, optimizer)
        finally:
            Tensor.tolist = listed

    Adapters.follow_rates, TwoOptimizers.step = follow_rates, stepped
    FirstGradients.look = lambda self, loss, *, last: ()
    together.are_equal = lambda numbers: True
    adapters.orthogonalise = lambda components, *, alike: None
