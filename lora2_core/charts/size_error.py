"""The error of an adapter at every size, as a picture and as lines of text."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence

import numpy as np

from .drawing import blank, pixels, plain_panel

SIZES = (5, 10, 20, 50, 100, 200, 400, 800)  # MB that the text names
MOST_POINTS = 500  # of the drawn curve


def error_at(megabytes: Sequence[float], errors: Sequence[float], size: float) -> float:
    """Returns the relative error of the largest cut within a size in MB."""
    return errors[max(0, bisect_left(megabytes, size + 1e-9) - 1)]


def lines(megabytes: Sequence[float], errors: Sequence[float]) -> list[str]:
    """Returns a line for some sizes that the curve has, and what each keeps of the energy."""
    if not megabytes or megabytes[-1] <= 0:
        return []
    sizes = [size for size in SIZES if size < megabytes[-1]] + [megabytes[-1]]
    found = []
    for size in sizes:
        error = error_at(megabytes, errors, size)
        found.append(f"{size:.4g} MB: error {error:.3f}, energy {1 - error**2:.1%}")
    return found


def picture(
    megabytes: Sequence[float], errors: Sequence[float], chosen: float, title: str
) -> np.ndarray:
    """Returns the share of the energy that every size keeps, uint8 RGB [height, width, 3].

    chosen: size of the adapter in MB, which is marked.
    """
    figure = blank(7.2, 3.6, layout="constrained")
    axes = figure.subplots()
    plain_panel(axes, title)
    steps = np.unique(np.linspace(0, len(megabytes) - 1, MOST_POINTS).round().astype(int))
    sizes, shares = np.asarray(megabytes)[steps], 1 - np.asarray(errors)[steps] ** 2
    axes.plot(sizes, shares, color="#2b6cb0")
    share = 1 - error_at(megabytes, errors, chosen) ** 2
    axes.plot([chosen], [share], "o", color="#c05621")
    axes.annotate(f"{chosen:.1f} MB, {share:.0%}", (chosen, share), (6, -14),
                  textcoords="offset points", fontsize=8)  # fmt: skip
    axes.set_xlabel("MB (fp16)", fontsize=8)
    axes.set_ylabel("energy kept", fontsize=8)
    axes.set_ylim(0, 1.02)
    return pixels(figure)
