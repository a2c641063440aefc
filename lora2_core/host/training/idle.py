"""Remembers, as long as a model is loaded, which of its layers got no gradient in a run: nothing
that the model computes depends on them, such as the last block's text.
"""

from __future__ import annotations

from collections.abc import Iterable
from weakref import WeakKeyDictionary

from torch import nn

_IDLE: WeakKeyDictionary[nn.Module, set[str]] = WeakKeyDictionary()


def remember(inner: nn.Module, layers: Iterable[str]) -> None:
    """Adds layers of a model by name."""
    _IDLE.setdefault(inner, set()).update(layers)


def idle(inner: nn.Module) -> frozenset[str]:
    """Returns the layers that are known to be idle; none before a run."""
    return frozenset(_IDLE.get(inner, ()))
