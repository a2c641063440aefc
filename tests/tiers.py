"""Which cases of a grid the fast tests try, and which tests several workers keep together; see
tests/conftest.py.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable
from itertools import product
from pathlib import PurePosixPath
from typing import Any

import pytest

LOOK = re.compile(r"[\[-](\w+)-(?:classic|vue)-")  # in the name of a browser test: its front end
PINNED = "pinned"  # the front end that the host itself serves (tests/hosting/front_ends.py)


def group(nodeid: str) -> str:
    """Returns what the tests of one worker have in common: a server, and in the browser the front
    end that it serves; else their file, which may have fixtures of its own.
    """
    path = nodeid.split("::")[0]
    folder = PurePosixPath(path).parts[1]
    if folder == "browser":
        look = LOOK.search(nodeid)
        return f"browser {look[1] if look else PINNED}"
    return "server" if folder == "server" else path


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
