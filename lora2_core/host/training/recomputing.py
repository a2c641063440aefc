"""Computes a part of a model again in the backward pass, with a graph in both passes, for parts
that blocks.py does not suit.

This is the checkpoint of Chen et al. (2016, arXiv 1604.06174) as torch's without reentry does it.
Two things are added. A value that is written over while it is needed is never used: in either pass
it is copied before the write, or the step is refused. And what the part gets can lie elsewhere
meanwhile.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, suppress
from typing import Any
from weakref import ref

import torch
from torch import Tensor
from torch.autograd.graph import saved_tensors_hooks

from .blocks import mapped
from .offloading import Hold, InRam
from .overwritten import Kept, copying, is_copying, keep

Mode = Callable[[], AbstractContextManager]


class Place:
    """Stands for a tensor that autograd would keep; its value is there from the second pass on."""

    __slots__ = ("__weakref__", "value")

    def __init__(self) -> None:
        self.value: Kept | None = None


class Done(Exception):
    """Ends the second pass once all that autograd needs is there."""


class Given:
    """Holds a tensor that the part gets, as it was before the first pass."""

    def __init__(self, tensor: Tensor, hold: Hold):
        self.kept, self.learns = hold(tensor), tensor.requires_grad

    def again(self) -> Tensor:
        """Returns it for the second pass, which may write into it where the first one did."""
        value = self.kept.value()
        if not self.learns or value.grad_fn is not None:
            return value
        leaf = value.detach().requires_grad_()
        return leaf.clone() if is_copying() else leaf


class Segment:
    """A part of one forward pass that is computed again once its gradients need it.

    mode: the context of the second pass. hold: keeps what the part gets.
    """

    def __init__(self, forward: Callable, mode: Mode, hold: Hold = keep):
        self.forward, self.hold = forward, hold
        self.mode: Mode = copying if is_copying() else mode
        self.places: list[ref[Place]] = []

    def __call__(self, *args: Any, **named: Any) -> Any:
        """Computes the first pass, which keeps nothing but what it gets."""
        held: list[Given] = []

        def given(tensor: Tensor) -> Given:
            held.append(Given(tensor, self.hold))
            return held[-1]

        self.given = mapped((args, named), given)
        args, named = mapped((args, named), lambda t: t)
        with saved_tensors_hooks(self.pack, self.unpack):
            result = self.forward(*args, **named)
        for each in held:
            if isinstance(each.kept, InRam) and not is_copying():
                each.kept.check()
        return result

    def pack(self, _tensor: Tensor) -> Place:
        """Leaves a place for a tensor that autograd wants to keep."""
        place = Place()
        self.places.append(ref(place))
        return place

    def unpack(self, place: Place) -> Tensor:
        """Returns the tensor of a place. Raises autograd's error where it was written over."""
        if place.value is None:
            self.compute_again()
        kept, place.value = place.value, None
        if kept is None:
            raise RuntimeError("A block of the model does not compute the same twice.")
        return kept.value()

    def compute_again(self) -> None:
        """Fills all places by a second pass."""
        places = [place() for place in self.places]
        last = max(i for i, place in enumerate(places) if place is not None)
        count = 0

        def pack(tensor: Tensor) -> None:
            nonlocal count
            if (place := places[count]) is not None:
                place.value = keep(tensor.detach())
            if count == last:
                raise Done
            count += 1

        def unpack(_: None) -> Tensor:
            raise RuntimeError("Nothing is kept of a second pass.")

        with suppress(Done), torch.enable_grad(), self.mode():
            args, named = mapped(self.given, Given.again, Given)
            with saved_tensors_hooks(pack, unpack):
                self.forward(*args, **named)
