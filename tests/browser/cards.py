"""The pictures by which the front end offers the examples: what goes in, or what comes out; in a
list of templates nothing of a graph can be read.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import matplotlib
from PIL import Image, ImageDraw, ImageFont

SIZE = (1024, 640)  # pixels
NIGHT, PAPER = "#111111", "#f2f2f2"
MARGIN, GAP = 36, 14
TITLE, LINE = 44, 30  # pixels of their letters
FONT = Path(matplotlib.get_data_path()) / "fonts/ttf"


class Row(NamedTuple):
    """A line of text, and pictures below it in one row; few pixels are shown as squares."""

    text: str
    pictures: Sequence[Image.Image]


def card(path: Path, title: str, rows: Sequence[Row], beside: Image.Image | None = None) -> None:
    """Writes a card: a title, rows below each other, and a picture to their right."""
    sheet = Image.new("RGB", SIZE, NIGHT)
    draw = ImageDraw.Draw(sheet)
    draw.text((MARGIN, MARGIN - 10), title, PAPER, font=font(TITLE, bold=True))
    top, right = MARGIN + TITLE + GAP, SIZE[0] - MARGIN
    if beside is not None:
        room = SIZE[1] - top - MARGIN
        shown = scaled(beside, min(room / beside.height, 0.5 * SIZE[0] / beside.width))
        right -= shown.width
        sheet.paste(shown, (right, top + (room - shown.height) // 2))
        right -= GAP
    height = (SIZE[1] - MARGIN - top) // len(rows)
    for row in rows:
        draw.text((MARGIN, top), row.text, PAPER, font=font(LINE))
        below = top + LINE + GAP
        most = max(len(r.pictures) for r in rows)
        side = min(height - LINE - 2 * GAP, (right - MARGIN - GAP * (most - 1)) // most)
        for i, picture in enumerate(row.pictures):
            shown = scaled(picture.convert("RGB"), side / max(picture.size))
            sheet.paste(shown, (MARGIN + i * (side + GAP), below))
        top += height
    sheet.save(path, quality=88, optimize=True)


def scaled(picture: Image.Image, factor: float) -> Image.Image:
    """Resizes a picture; small ones keep their pixels."""
    size = round(picture.width * factor), round(picture.height * factor)
    small = max(picture.size) < 300 and factor > 1
    return picture.resize(size, Image.Resampling.NEAREST if small else Image.Resampling.LANCZOS)


def font(size: int, bold: bool = False) -> ImageFont.FreeTypeFont:
    """Returns matplotlib's own font."""
    return ImageFont.truetype(str(FONT / f"DejaVuSans{'-Bold' if bold else ''}.ttf"), size)


def examples(subject: str, count: int) -> list[Image.Image]:
    """Pictures of LoRA² Example Pictures."""
    from lora2_core.playground import subjects

    images, _ = subjects.examples(subject, count)
    return [Image.fromarray((image * 255).round().byte().numpy()) for image in images]


def photographs(path: Path, model: str) -> None:
    """The card of an example that learns from the photographs with a model of the user's."""
    from lora2_core.playground.subjects import PHOTOGRAPHS

    taken = examples(PHOTOGRAPHS, 5)
    rows = [Row("five photographs of one thing", taken[:3]), Row("become a LoRA", taken[3:])]
    card(path, f"Your subject in {model}", rows)


def captioned(path: Path) -> None:
    """The card of the example whose captions the text encoder writes."""
    from lora2_core.playground.subjects import PHOTOGRAPHS

    taken = examples(PHOTOGRAPHS, 5)
    rows = [
        Row("pictures that have no captions yet", taken[:3]),
        Row("get them from the model's own text encoder", taken[3:]),
    ]
    card(path, "Captions by a model: Krea 2", rows)


def style(path: Path) -> None:
    """The card of the example on styles: many things, drawn alike."""
    from lora2_core.playground import subjects

    drawn = [examples(name, 1)[0] for name in subjects.SUBJECTS[:8]]
    rows = [Row("pictures of many things", drawn[:4]), Row("that are drawn alike", drawn[4:])]
    card(path, "A style in SDXL", rows)


def merged(path: Path) -> None:
    """The card of the example that merges two adapters: what each of them learned."""
    rows = [Row("an owl", examples("owl", 4)), Row("and a fox in one LoRA", examples("fox", 4))]
    card(path, "Two LoRAs become one", rows)


def extracted(path: Path) -> None:
    """The card of the example that extracts an adapter: what the model was tuned to."""
    rows = [
        Row("a model that was tuned to this", examples("owl", 4)),
        Row("less its base is a LoRA", examples("owl", 8)[4:]),
    ]
    card(path, "A LoRA from two models", rows)


def resumed(path: Path, previews: Sequence[Path]) -> None:
    """The card of the example on resuming: its previews, from the first step to the last."""
    pictures = [Image.open(file) for file in sorted(previews)]
    half = (len(pictures) + 1) // 2
    rows = [Row("until you cancel", pictures[:half]), Row("Run goes on", pictures[half:])]
    card(path, "Stop a run, and go on", rows)


def before_and_after(
    path: Path, title: str, before: Sequence[Path], after: Sequence[Path], lora: Path
) -> None:
    """The card of an example that shows samples and the ranks behind them."""
    import lora2_core
    from lora2_core.charts.heatmap import draw

    rows = [
        Row(name, [Image.open(file) for file in files[:2]])
        for name, files in (("before", before), ("after", after))
    ]
    drawn = Image.fromarray(draw(lora2_core.load(str(lora)), title="Ranks"))
    card(path, title, rows, drawn)
