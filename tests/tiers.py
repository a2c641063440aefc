"""Which cases of a grid the fast tests try; the others are slow (tests/conftest.py)."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from itertools import product
from typing import Any

import pytest


def fast(values: Iterable[Any], *few: Any) -> list:
    """Returns parameters of which all but a few are slow; the first one where none is named."""
    values = list(values)
    few = few or values[:1]
    return [v if v in few else pytest.param(v, marks=pytest.mark.slow) for v in values]


def each_once(*axes: Collection[Any]) -> list:
    """Returns the grid of the axes, of which the fast cases have each value once at least: as many
    as the longest axis has.
    """
    lists = [list(axis) for axis in axes]
    longest = max(map(len, lists))
    few = {tuple(i % len(values) for values in lists) for i in range(longest)}
    grid = product(*(range(len(values)) for values in lists))
    return [
        pytest.param(
            *(values[i] for values, i in zip(lists, case, strict=True)),
            marks=[] if case in few else pytest.mark.slow,
        )
        for case in grid
    ]
