"""Fetches weights that lie in RAM to the card ahead of their use, while other layers compute.

The host's own side streams may copy into memory that is still read. Here one stream copies, into
one buffer that is given out in turn, and both ways are ordered: a copy begins when the last reader
of its place is done, and a layer computes when its copy has arrived. Which layers come next is
known from the pass before.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from itertools import accumulate
from typing import Any

import comfy.model_management
import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import is_traceable_wrapper_subclass

from ...saying import log
from ..weights import QUANTISED
from .memory import out_of_memory
from .upcoming import Order, Ring

try:
    from comfy.memory_management import interpret_gathered_like, vram_aligned_size
except ImportError:  # older hosts: nothing is fetched ahead
    interpret_gathered_like = vram_aligned_size = None

NAMES = "weight", "bias"
STREAMS = ("cuda", "xpu")  # devices that copy while they compute
# bytes of the buffer, where the largest layer is small: 10 ms of copies at 25 GB/s, so that one
# long layer does not use up what was fetched
LEAST = 256_000_000
# bytes: a layer of so few, such as a norm, stays on the card once it was copied
SMALL = 16_384
ALIGNED = 1024  # bytes: layers take a multiple of it in the buffer (vram_aligned_size)


@dataclass(frozen=True)
class Place:
    """Holds a layer's weights by their names, copies that stand for them at a place of the buffer,
    and what is copied: from where, and to where.
    """

    own: dict[str, Tensor]
    copies: dict[str, Tensor]
    pairs: list[tuple[Tensor, Tensor]]

    def is_of(self, module: nn.Module) -> bool:
        """Returns whether these are the layer's weights still."""
        parameters = module._parameters
        return all(parameters[name] is tensor for name, tensor in self.own.items())


@dataclass(frozen=True)
class Fetched:
    """Holds copies of a layer: the place in the ring, and the event of their arrival."""

    module: nn.Module
    begin: int
    place: Place
    arrived: Any


class Ahead:
    """Fetches the weights of a loan's layers, on a device that has streams.

    sizes: bytes of each layer that may be fetched, while there is a buffer. kept: copies of small
    layers, which lie behind the ring in it. places: in the buffer, by the layer and first byte.
    """

    def __init__(self, device: torch.device):
        self.device, self.buffer, self.busy = device, None, False
        self.sizes: dict[nn.Module, int] = {}
        self.kept: dict[nn.Module, Place] = {}
        self.places: dict[tuple[nn.Module, int], Place] = {}
        self.fetched: deque[Fetched] = deque()
        self.handle: Any = None

    def start(self, modules: Iterable[nn.Module], model: nn.Module, room: int) -> None:
        """Begins to fetch those of these modules' weights that lie in RAM, with at most `room`
        bytes of the device. A pass begins when the model is computed.
        """
        if room <= 0 or not can_fetch(self.device):
            return
        sizes = {module: size for module in modules if (size := size_in_ram(module))}
        small = {module: size for module, size in sizes.items() if size <= SMALL}
        room -= sum(small.values())
        self.sizes = {module: size for module, size in sizes.items() if size <= room}
        wanted = max(2 * max(self.sizes.values(), default=0), LEAST)
        size = min(room, wanted, sum(self.sizes.values())) // ALIGNED * ALIGNED
        if size <= 0 or not self.make_buffer(size + sum(small.values())):
            return
        self.ring, self.order = Ring(size), Order()
        self.stream = self.card.Stream(self.device)
        # the stream itself costs a tenth of the other, where torch has it as a context
        own = hasattr(self.stream, "__enter__")
        self.aside = self.stream if own else self.card.stream(self.stream)
        self.compute = self.card.current_stream(self.device)
        self.stream.wait_stream(self.compute)
        self.handle = model.register_forward_pre_hook(lambda *_: self.begin())
        for first, module in zip(accumulate(small.values(), initial=size), small, strict=False):
            self.kept[module] = self.copied(module, first)

    def make_buffer(self, size: int) -> bool:
        """Returns whether the device has a buffer of so many bytes, and makes it."""
        self.card = torch.get_device_module(self.device)
        try:
            self.buffer = torch.empty(size, dtype=torch.uint8, device=self.device)
        except RuntimeError as error:
            if not out_of_memory(error):
                raise
            log.debug("No weight is fetched ahead: %s", error)
        return self.buffer is not None

    def stop(self) -> None:
        """Ends it: all copies have arrived, and the buffer is given back."""
        if self.buffer is None:
            return
        self.stream.synchronize()
        self.handle.remove()
        self.fetched.clear()
        self.buffer, self.order = None, Order()
        for each in (self.sizes, self.kept, self.places):
            each.clear()

    def begin(self) -> None:
        """Begins a pass. All of it is computed on one stream, its backward pass too."""
        self.compute = self.card.current_stream(self.device)
        last = self.order.last
        if not self.order.begin():
            self.fetched.clear()
        if self.order.last is not last:
            self.places.clear()
        self.fetch()

    def use(self, module: nn.Module, *given: Any) -> AbstractContextManager:
        """Returns the context in which a layer computes on what it is given, the first a tensor:
        its weights are the copies if they were fetched. Nothing that autograd keeps is a copy.
        """
        if self.buffer is None or module not in self.sizes or self.busy:
            return nullcontext()
        if not given or getattr(given[0], "device", None) != self.buffer.device:
            return nullcontext()
        if torch.is_grad_enabled() and any(getattr(t, "requires_grad", False) for t in given):
            return nullcontext()
        return Use(self, module)

    def lend(self, fetched: Fetched) -> None:
        """Lets a layer compute with copies that were fetched."""
        self.compute.wait_event(fetched.arrived)
        fetched.module._parameters.update(fetched.place.copies)

    def give_back(self, fetched: Fetched) -> None:
        """Ends that; from now on others may get the place."""
        fetched.module._parameters.update(fetched.place.own)
        self.ring.read.append((fetched.begin, self.compute.record_event()))

    def fetch(self) -> None:
        """Begins the copies of the layers that come next, as far as they have a place."""
        while (module := self.order.following(len(self.fetched))) is not None:
            oldest = self.fetched[0].begin if self.fetched else None
            first = self.order.is_first(len(self.fetched))
            begin = self.ring.place(self.sizes[module], oldest, first=first)
            if begin is None:
                return
            self.fetched.append(self.copy(module, begin))

    def copy(self, module: nn.Module, begin: int) -> Fetched:
        """Begins the copy of a layer to a place."""
        for event in self.ring.readers(begin + self.sizes[module]):
            self.stream.wait_event(event)
        with self.aside:
            place = self.copied(module, begin % self.ring.size)
            return Fetched(module, begin, place, self.stream.record_event())

    def copied(self, module: nn.Module, first: int) -> Place:
        """Begins the copies of a layer's weights to the buffer, from this byte on."""
        # a mode of torch functions would make others of these
        with torch._C.DisableTorchFunction(), torch.no_grad():
            place = self.places.get((module, first))
            if place is None or not place.is_of(module):
                place = self.places[module, first] = place_of(module, self.buffer[first:])
            for source, copy in place.pairs:
                copy.copy_(source, non_blocking=True)
        return place


class Use:
    """Lets a layer compute inside, with the copies of its weights where there are some; then others
    are fetched.
    """

    __slots__ = ("ahead", "fetched", "module")

    def __init__(self, ahead: Ahead, module: nn.Module):
        self.ahead, self.module = ahead, module
        self.fetched: Fetched | None = None

    def __enter__(self) -> None:
        ahead = self.ahead
        if (kept := ahead.kept.get(self.module)) is not None:
            self.module._parameters.update(kept.copies)
        else:
            if not ahead.order.agrees(self.module):
                ahead.fetched.clear()
            if ahead.fetched:
                self.fetched = ahead.fetched[0]
                ahead.lend(self.fetched)
        ahead.busy = True

    def __exit__(self, *_: object) -> None:
        ahead = self.ahead
        ahead.busy = False
        if (kept := ahead.kept.get(self.module)) is not None:
            self.module._parameters.update(kept.own)
            return
        if self.fetched is not None:
            ahead.give_back(self.fetched)
            ahead.fetched.popleft()
        ahead.fetch()


def place_of(module: nn.Module, buffer: Tensor) -> Place:
    """Returns the place of a layer's weights at the beginning of a buffer."""
    own = {name: t for name in NAMES if (t := module._parameters.get(name)) is not None}
    sources = list(map(as_bytes_lie, own.values()))
    views = interpret_gathered_like(sources, buffer)
    copies = {
        name: like(view, tensor) for (name, tensor), view in zip(own.items(), views, strict=True)
    }
    return Place(own, copies, list(zip(sources, views, strict=True)))


def can_fetch(device: torch.device) -> bool:
    """Returns whether a device copies while it computes, and the host can tell."""
    waits = comfy.model_management.device_supports_non_blocking
    return interpret_gathered_like is not None and device.type in STREAMS and waits(device)


def size_in_ram(module: nn.Module) -> int:
    """Returns the bytes that a layer takes in the buffer, 0 for one that can't be fetched: its
    weights lie on the card, or may go away at any time.
    """
    weight, bias = (module._parameters.get(name) for name in NAMES)
    if weight is None or not hasattr(module, "comfy_cast_weights") or "_v" in module.__dict__:
        return 0
    tensors = [tensor for tensor in (weight, bias) if tensor is not None]
    if not all(map(is_in_ram, tensors)):
        return 0
    return vram_aligned_size(list(map(as_bytes_lie, tensors)))


def is_in_ram(tensor: Tensor) -> bool:
    """Returns whether a weight lies in RAM in a form that can be copied as bytes."""
    known = isinstance(tensor, QUANTISED) or not is_traceable_wrapper_subclass(tensor)
    return known and tensor.device.type == "cpu" and tensor.is_contiguous()


def as_bytes_lie(tensor: Tensor) -> Tensor:
    """Returns a weight without what another pack's class says of it, such as the shape that it has
    once a layer has unpacked it. The host's quantised ones stay as they are.
    """
    if isinstance(tensor, QUANTISED):
        return tensor
    with torch._C.DisableTorchFunction():
        return tensor.detach().as_subclass(Tensor)


def like(copy: Tensor, tensor: Tensor) -> Tensor:
    """Returns a copy with the class of a weight, and with all that is noted in it."""
    kind = type(tensor)
    if isinstance(tensor, QUANTISED) or kind in (Tensor, nn.Parameter):
        return copy
    made = copy.as_subclass(kind)
    vars(made).update(vars(tensor))
    return made
