"""`nox -s brand`: the icon and the banner: learned ranks as columns.
Look at them before committing them.
"""

from __future__ import annotations

import io
import re
from pathlib import Path

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.figure import Figure
from matplotlib.patches import FancyBboxPatch
from PIL import Image

ROOT = Path(__file__).resolve().parents[2]
DOCS = ROOT / "docs"
ICON, BANNER = (400, 400), (1680, 720)  # pixels; the registry wants 1:1 and 21:9
NIGHT, PAPER, GOLD = "#14171f", "#f4efe3", "#e3ab2f"
WARM = LinearSegmentedColormap.from_list("warm", ["#27406b", "#6b7fa8", "#d9b25c", "#ffd45e"])
# ranks of eight layers: how much of a stack each one keeps
HEIGHTS = (0.22, 0.38, 0.78, 1.0, 0.62, 0.3, 0.5, 0.16)


def canvas(size: tuple[int, int]):
    """A figure of so many pixels, with axes in pixels, y up."""
    figure = Figure((size[0] / 100, size[1] / 100), dpi=100, facecolor=NIGHT)
    axes = figure.add_axes((0, 0, 1, 1), xlim=(0, size[0]), ylim=(0, size[1]))
    axes.set_axis_off()
    return figure, axes


def bars(axes, x: float, y: float, width: float, height: float, values=HEIGHTS) -> None:
    """Ranks as columns of stacked cells, brighter towards the top, cut at their rank."""
    cells, gap = 8, 0.18
    across, up = width / len(values), height / cells
    for column, value in enumerate(values):
        for row in range(cells):
            inside = row < round(value * cells)
            colour = WARM(0.15 + 0.85 * row / (cells - 1)) if inside else "#1f2530"
            place = x + column * across, y + row * up
            shape = FancyBboxPatch(
                place, across * (1 - gap), up * (1 - gap), linewidth=0, facecolor=colour,
                boxstyle=f"round,pad=0,rounding_size={0.12 * min(across, up)}",
            )  # fmt: skip
            axes.add_patch(shape)


def save(figure: Figure, path: Path) -> None:
    drawn = io.BytesIO()
    FigureCanvasAgg(figure).print_png(drawn)
    small = Image.open(drawn).convert("RGB").quantize(128, dither=Image.Dither.NONE)
    small.save(path, optimize=True)
    print(f"{path.relative_to(ROOT)}: {small.width} x {small.height}")


def icon() -> None:
    figure, axes = canvas(ICON)
    bars(axes, 44, 40, 320, 210)
    axes.text(
        200, 318, "LoRA²", color=PAPER, fontsize=64, fontweight="bold", ha="center", va="center"
    )
    save(figure, DOCS / "icon.png")


def banner() -> None:
    figure, axes = canvas(BANNER)
    text = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    said = re.search(r'^description = "LoRA²: ([^"]+)"', text, re.MULTILINE)[1]
    head, tail = said.split(" whose ", 1)
    wave = 0.5 + 0.42 * np.sin(np.linspace(0, 7.6, 24)) * np.linspace(0.5, 1, 24)
    bars(axes, 860, 130, 740, 460, values=tuple(wave))
    axes.text(90, 460, "LoRA²", color=PAPER, fontsize=118, fontweight="bold", va="center")
    axes.plot([96, 420], [352, 352], color=GOLD, linewidth=7, solid_capstyle="round")
    lines = (
        f"{head[0].upper()}{head[1:]} whose\n{tail.replace(', inside', ',' + chr(10) + 'inside')}"
    )
    axes.text(94, 310, lines, color="#c9cfda", fontsize=30, va="top", linespacing=1.5)
    save(figure, DOCS / "banner.png")


if __name__ == "__main__":
    icon()
    banner()
