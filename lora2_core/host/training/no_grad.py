"""Lets methods of models have gradients that are written for sampling alone, under torch.no_grad:
else the layers inside would learn nothing, and those before them something wrong. The experts of
Hunyuan3D 2.1 are computed by one.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from functools import cache
from types import FunctionType, MethodType

import torch
from torch import nn

WITHOUT = (torch.no_grad, torch.inference_mode)


def undecorated(function: object) -> Callable | None:
    """Returns the function that a decorator of torch keeps from having gradients; None for every
    other object.
    """
    if not isinstance(function, FunctionType) or not hasattr(function, "__wrapped__"):
        return None
    inside = [cell.cell_contents for cell in function.__closure__ or ()]
    managers = [getattr(each, "__self__", None) for each in inside]
    kept = any(isinstance(manager, WITHOUT) for manager in managers)
    return function.__wrapped__ if kept else None


@cache
def methods_without(kind: type[nn.Module]) -> dict[str, Callable]:
    """Returns name -> function of the methods of a class that torch keeps from having gradients."""
    every: dict[str, object] = {}
    for each in reversed(kind.__mro__):
        every |= vars(each)
    inner = {name: undecorated(value) for name, value in every.items()}
    return {name: function for name, function in inner.items() if function is not None}


@contextmanager
def with_gradients(modules: Iterable[nn.Module]) -> Iterator[None]:
    """Lets all methods of these modules have gradients inside."""
    changed = []
    try:
        for module in modules:
            for name, function in methods_without(type(module)).items():
                if name not in vars(module):
                    vars(module)[name] = MethodType(function, module)
                    changed.append((module, name))
        yield
    finally:
        for module, name in changed:
            del vars(module)[name]
