"""A rule that makes a model small: fewer layers, heads and channels than its defaults, in the same
proportions.
"""

from __future__ import annotations

import inspect
import re

DEPTH = re.compile(r"layers|blocks|depth")
HEADS = re.compile(r"heads")
WIDTH = re.compile(r"hidden|dim|width|size|channels|features")
# numbers that look like widths and belong to the latents, to positions or to a head
KEPT = re.compile(
    r"^(in|out|io)_|head_dim|head_channels|patch|axes|rope|max_|input_size|latent|time_proj"
    r"|vid_(in|out)|window|context_size|sample_|vocab|freq|pooled|fsq|kernel"
)
MOST_LAYERS, MOST_HEADS, NARROW = 2, 2, 64


def defaults_of(diffusion: type) -> dict:
    """Returns what the constructor of a diffusion class takes by itself, with its ancestors'."""
    found: dict = {}
    for kind in reversed(diffusion.__mro__):
        if "__init__" in vars(kind):
            for name, parameter in inspect.signature(kind.__init__).parameters.items():
                if parameter.default is not inspect.Parameter.empty:
                    found[name] = parameter.default
    return {k: v for k, v in found.items() if isinstance(v, (int, float, str, list, tuple))}


def shrunk(config: dict) -> dict:
    """Returns a configuration with at most MOST_LAYERS layers of a kind and MOST_HEADS heads, whose
    widths shrink as the heads do.
    """
    heads = [v for k, v in config.items() if HEADS.search(k) and is_count(v)]
    ratio = max(1, max(heads, default=1) // MOST_HEADS)
    small = {}
    for name, value in config.items():
        if HEADS.search(name) and is_count(value):
            small[name] = max(1, value // ratio)
        elif DEPTH.search(name) and is_count(value):
            small[name] = min(value, MOST_LAYERS)
        elif WIDTH.search(name) and not KEPT.search(name) and is_count(value) and value > NARROW:
            small[name] = max(value // ratio, 8)
    return small


def is_count(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value > 0
