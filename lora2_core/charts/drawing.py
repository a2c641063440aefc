"""Parts that all pictures share: a white figure, its legend, its pixels. matplotlib is imported
when the first picture is drawn.
"""

from __future__ import annotations

import io

import numpy as np
from PIL import Image

DPI = 100  # pixels an inch; sizes in inches convert easily


def blank(width: float, height: float, **options):
    """Returns a white figure; width and height in inches, options of matplotlib's Figure."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure((width, height), dpi=DPI, facecolor="white", **options)
    FigureCanvasAgg(figure)  # attaches itself, so that the figure can be drawn
    return figure


def plain_panel(axes, title: str) -> None:
    """Sets the look of a panel of a chart; its title is text, never a formula."""
    axes.set_title(title, fontsize=11, loc="left", parse_math=False)
    axes.grid(color="#e5e5e5", linewidth=0.8)
    axes.spines[["top", "right"]].set_visible(False)
    axes.tick_params(labelsize=8)


def legend_below(figure, axes) -> None:
    """Adds the legend of one panel below all panels; a name is text, never a formula."""
    legend = figure.legend(
        *axes.get_legend_handles_labels(),
        loc="outside lower center",
        ncols=3,
        fontsize=9,
        frameon=False,
    )
    for text in legend.get_texts():
        text.set_parse_math(False)


def pixels(figure) -> np.ndarray:
    """Returns a figure as uint8 RGB [height, width, 3]."""
    figure.canvas.draw()
    return np.asarray(figure.canvas.buffer_rgba())[..., :3].copy()


def png(picture: np.ndarray) -> bytes:
    """Returns the bytes of a PNG file of a picture, uint8 [height, width, 3]."""
    file = io.BytesIO()
    Image.fromarray(picture).save(file, "png")
    return file.getvalue()
