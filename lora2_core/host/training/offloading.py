"""Keeps what checkpointed blocks get in RAM, until the backward pass comes back to them.

A GPU copies on a stream of its own, while it computes. Both ways are ordered: a copy to RAM begins
after the value is there, its memory is used again after the copy, and the way back begins before
the block needs it. So the card holds the inputs of a few blocks, not of all.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any
from weakref import ref

import torch
from torch import Tensor

from .overwritten import SIGN, Kept, is_copying, keep

SMALLEST = 1 << 20  # bytes: what is smaller than this isn't worth a copy
AHEAD = 2  # values that are on their way back before they are asked for: what one block gets
Hold = Callable[[Tensor], "Kept | InRam"]


class InRam:
    """Holds a value in RAM. Its tensor on the device is held by others as long as they need it."""

    def __init__(self, tensor: Tensor, stream: Any, before: ref[InRam] | None):
        self.device, self.stream, self.before = tensor.device, stream, before
        self.origin, self.version = ref(tensor), tensor._version
        self.back: Tensor | None = None
        self.arrived: Any = None
        source = tensor.detach()
        self.memory = torch.empty_like(source, device="cpu", pin_memory=stream is not None)
        # where a write into the tensor may follow at once, the copy is made in its order
        aside = stream is not None and not is_copying()
        if aside:
            stream.wait_stream(self.current())
            source.record_stream(stream)
        with self.on(stream) if aside else nullcontext():
            self.memory.copy_(source, non_blocking=True)
        if stream is not None and not aside:
            stream.wait_stream(self.current())  # the way back comes after it

    def on(self, stream: Any) -> AbstractContextManager:
        """Returns the context in which the device works on a stream."""
        return torch.get_device_module(self.device).stream(stream)

    def current(self) -> Any:
        """Returns the stream that the device computes on."""
        return torch.get_device_module(self.device).current_stream(self.device)

    def fetch(self) -> Tensor:
        """Returns the value on its device, whose way back begins now if it has not yet."""
        if self.back is None and self.stream is None:
            self.back = self.memory.to(self.device, copy=True)
        elif self.back is None:
            with self.on(self.stream):
                self.back = self.memory.to(self.device, non_blocking=True)
                self.arrived = self.stream.record_event()
        return self.back

    def check(self) -> None:
        """Raises autograd's error where the tensor was written over after it was copied."""
        tensor = self.origin()
        if tensor is not None and tensor._version != self.version:
            raise RuntimeError(f"a value that gradients need was {SIGN}")

    def value(self) -> Tensor:
        """Returns the value on its device, and begins the way back of those that come next."""
        if not is_copying():
            self.check()
        value, self.back = self.fetch(), None
        if self.stream is not None:
            self.current().wait_event(self.arrived)
            value.record_stream(self.current())
        following = self.before
        for _ in range(AHEAD):
            if following is None or (entry := following()) is None:
                break
            entry.fetch()
            following = entry.before
        return value


class Offload:
    """Keeps the inputs of blocks that learn in RAM, others where they are."""

    def __init__(self) -> None:
        self.streams: dict[torch.device, Any] = {}
        self.last: ref[InRam] | None = None

    def stream(self, device: torch.device) -> Any:
        """Returns the stream that copies from and to a device, None for the CPU."""
        if device.type == "cpu":
            return None
        if device not in self.streams:
            self.streams[device] = torch.get_device_module(device).Stream(device)
        return self.streams[device]

    def hold(self, tensor: Tensor) -> Kept | InRam:
        """Returns the value of a tensor now, in RAM where that saves memory."""
        if not tensor.requires_grad or tensor.nbytes < SMALLEST:
            return keep(tensor)
        held = InRam(tensor, self.stream(tensor.device), self.last)
        self.last = ref(held)
        return held
