"""Trains models that write over values which their gradients need.

LTX, PixelDiT and MiniMax H3 save memory while they sample by writes such as `x.addcmul_(y, gate)`,
after a normalisation has kept x for the backward pass. Autograd refuses that, rightly. Here every
kept value is registered by its storage, and copied just before something writes into that storage:
only what is really overwritten costs memory, and a write that nobody saw is still refused.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from weakref import WeakSet

import torch
from torch import Tensor, nn
from torch.autograd.graph import saved_tensors_hooks
from torch.overrides import TorchFunctionMode

from ...layers.storage import storage_of
from ...saying import log
from .out_of_place import OutOfPlace

AUGMENTED = {
    "__setitem__", "__iadd__", "__isub__", "__imul__", "__itruediv__", "__ifloordiv__", "__ipow__",
    "__imod__", "__iand__", "__ior__", "__ixor__",
}  # fmt: skip
SIGN = "modified by an inplace operation"  # in the error of autograd
# models on loan that were refused for it, until their run ends
_models: WeakSet[nn.Module] = WeakSet()


class _Now(threading.local):
    """Holds what is copied in this thread before a write, by its storage; None where nothing is."""

    kept: dict[int, WeakSet[Kept]] | None = None


_now = _Now()


def is_overwriting(error: BaseException) -> bool:
    """Returns whether autograd refuses a value that was written over."""
    return isinstance(error, RuntimeError) and SIGN in str(error)


def overwrites(model: nn.Module) -> bool:
    """Returns whether a model is known to write over what its gradients need."""
    return model in _models


@contextmanager
def remembered(model: nn.Module) -> Iterator[None]:
    """Notes inside that a model writes over what its gradients need."""
    log.info("This model writes over values that its gradients need: they are copied before.")
    _models.add(model)
    try:
        yield
    finally:
        _models.discard(model)


class Kept:
    """Holds one value for the backward pass: the tensor itself, or a copy of what it was."""

    __slots__ = ("__weakref__", "tensor", "version")

    def __init__(self, tensor: Tensor):
        self.tensor, self.version = tensor, tensor._version

    def copy(self) -> None:
        """Makes the value independent of later writes."""
        if self.version is not None:
            self.tensor, self.version = self.tensor.detach().clone(), None

    def value(self) -> Tensor:
        """Returns the value. Raises autograd's error where a write was not seen."""
        if self.version is not None and self.tensor._version != self.version:
            raise RuntimeError(f"a value that gradients need was {SIGN}")
        return self.tensor


def written(func: Callable, args: tuple, named: dict) -> Iterator[Tensor]:
    """Yields the tensors that a call of torch writes into."""
    name = getattr(func, "__name__", "")
    own_name = name.endswith("_") and not name.endswith("__")
    into = own_name or name in AUGMENTED or named.get("inplace")
    out = named.get("out")
    targets = [*(args[:1] if into else ()), *(out if isinstance(out, (tuple, list)) else [out])]
    yield from (each for each in targets if torch.is_tensor(each))


class _Copying(TorchFunctionMode):
    """Copies kept values before a call of torch writes into their storage."""

    def __init__(self, kept: dict[int, WeakSet[Kept]]):
        self.kept = kept

    def __torch_function__(self, func, types, args=(), kwargs=None):
        for tensor in written(func, args, kwargs or {}):
            for value in self.kept.pop(storage_of(tensor), ()):
                value.copy()
        return func(*args, **(kwargs or {}))


def keep(tensor: Tensor) -> Kept:
    """Returns the value of a tensor now: copied before a later write where writes are watched,
    refused after one where they are not.
    """
    value = Kept(tensor)
    if _now.kept is not None:
        _now.kept.setdefault(storage_of(tensor), WeakSet()).add(value)
    return value


def is_copying() -> bool:
    """Returns whether writes are watched in this thread."""
    return _now.kept is not None


@contextmanager
def copying() -> Iterator[None]:
    """Copies what was kept inside before something writes into it, inside too."""
    before, _now.kept = _now.kept, {}
    try:
        # the last mode sees a call first: what can be a new tensor needs no copy
        with _Copying(_now.kept), OutOfPlace():
            yield
    finally:
        _now.kept = before


@contextmanager
def overwriting_allowed() -> Iterator[None]:
    """Lets a forward pass write over values that its gradients need. The backward pass may be
    outside.
    """
    with copying(), saved_tensors_hooks(keep, Kept.value):
        yield
