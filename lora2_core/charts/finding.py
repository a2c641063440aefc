"""Draws what was found in a model: its blocks in rows, their modules in columns, each layer in the
colour of its kind. Layers that are left out are pale, idle ones are crossed out.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from ..adapter.layout import arrange
from .drawing import DPI, blank, pixels
from .heatmap import MOST_TALL_ROWS, WIDTH

# colours that people with any colour blindness tell apart (Okabe and Ito), in the order of kinds
COLOURS = ("#0072b2", "#cc79a7", "#009e73", "#e69f00", "#56b4e9", "#8c6d31", "#999999")
PALE = 0.22  # share of the colour that a layer has which is left out
NO_LAYER = (0.95, 0.95, 0.95)
TALLEST = 60.0  # inches: a model with more rows has lower rows
LABELS = 100  # rows that have their names; of more, some have
LETTERS = 26  # of a column's name


@dataclass(frozen=True)
class Found:
    """Says of a layer its kind, whether it is chosen, and whether it is known to be idle: nothing
    that the model computes depends on it.
    """

    kind: str
    chosen: bool
    idle: bool = False


def draw_finding(layers: Mapping[str, Found], kinds: tuple[str, ...]) -> np.ndarray:
    """Returns the picture as uint8 RGB [height, width, 3]. layers: by name, in the model's order.
    kinds: all of them, for the order of the colours.
    """
    from matplotlib.colors import to_rgb
    from matplotlib.patches import Patch

    layout = arrange(layers)
    rows = {name: i for i, name in enumerate(layout.rows)}
    columns = {name: i for i, name in enumerate(layout.columns)}
    cells = np.full((len(rows), len(columns), 3), NO_LAYER)
    colours = {kind: np.array(to_rgb(c)) for kind, c in zip(kinds, COLOURS, strict=False)}
    crossed = []
    for name, (row, column) in layout.layers.items():
        found, at = layers[name], (rows[row], columns[column])
        share = 1.0 if found.chosen else PALE
        cells[at] = share * colours[found.kind] + (1 - share)
        if found.idle:
            crossed.append(at)
    row_height = 0.3 if len(rows) <= MOST_TALL_ROWS else 0.19
    height = min(TALLEST, 2.4 + row_height * len(rows))
    figure = blank(WIDTH / DPI, height, layout="constrained")
    chosen = sum(found.chosen for found in layers.values())
    title = f"{chosen} of {len(layers)} layers are trained"
    figure.suptitle(title, fontsize=14, fontweight="bold", x=0.02, ha="left")
    axes = figure.subplots()
    axes.imshow(cells, aspect="auto", interpolation="nearest")
    for y, x in crossed:
        axes.text(x, y, "\u00d7", ha="center", va="center", fontsize=9)
    every = -(-len(rows) // LABELS)
    names = [name or "model" for name in layout.rows]
    axes.set_yticks(range(0, len(rows), every), names[::every], fontsize=7.5)
    said = [name if len(name) <= LETTERS else f"\u2026{name[1 - LETTERS :]}" for name in columns]
    axes.set_xticks(range(len(columns)), said, rotation=60, ha="left", fontsize=7.5)
    axes.xaxis.tick_top()
    axes.tick_params(length=0)
    axes.spines[:].set_visible(False)
    used = [kind for kind in kinds if any(found.kind == kind for found in layers.values())]
    legend = [Patch(color=colours[kind], label=kind) for kind in used]
    legend.append(Patch(color="#dddddd", label="pale: left out"))
    if crossed:
        legend.append(Patch(color="white", label="\u00d7: idle, learns nothing"))
    figure.legend(handles=legend, loc="outside lower center", ncols=4, fontsize=9, frameon=False)
    return pixels(figure)
