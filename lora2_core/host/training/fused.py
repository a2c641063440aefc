"""The host's fused operations in a form that has gradients.

comfy_kitchen joins norm and rope in one operation, which has no formula for autograd. Most of the
host's models ask `in_training` and leave it out; some do not. Beside each operation the package has
the same in plain torch.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable
from functools import cache

PACKAGE, PLAIN = "comfy_kitchen", "comfy_kitchen.backends.eager"


def plain_form(func: Callable) -> Callable | None:
    """Returns the plain form of one of the package's operations, None for all others, and for those
    that write into what they are given.
    """
    name = getattr(func, "_qualified_op_name", None) or getattr(func, "_name", None)
    if not isinstance(name, str) or not name.startswith(f"{PACKAGE}::"):
        return None
    return _plain(name.removeprefix(f"{PACKAGE}::").partition(".")[0])


@cache
def _plain(name: str) -> Callable | None:
    if name.endswith("_"):
        return None
    try:
        return getattr(importlib.import_module(PLAIN), name, None)
    except ImportError:
        return None
