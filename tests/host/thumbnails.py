"""The pictures of the templates in tests/host/templates.py: the layers that are trained, in the
real size of the model where it is known.

`python -m tests.hosting.inprocess tests.host.thumbnails` writes them.
"""

from __future__ import annotations

import sys

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont

from lora2_core.charts.finding import COLOURS, PALE
from lora2_core.layers.structure import KINDS, OUTSIDE
from lora2_core.layers.targets import TargetSettings, places
from tests.host.small import PARTS
from tests.host.templates import TEMPLATES, WORKFLOWS
from tests.models import build, real

SIZE = 1024, 640  # pixels, as the other thumbnails
LEFT, TOP, SIDE = 48, 150, 14


def model_of(name: str) -> torch.nn.Module:
    kind = PARTS[name][0]
    return real.real(kind) if kind in real.SHAPES else build.build(kind).model


def drawn(name: str) -> Image.Image:
    """Every layer of the blocks as a square in the colour of its kind, a column for each block."""
    model = model_of(name)
    chosen = TargetSettings("attention + feed-forward").chosen(model)
    columns: dict[str, list] = {}
    for layer, place in places(model).items():
        if place.kind != OUTSIDE:
            columns.setdefault(place.block, []).append((place.kind, layer in chosen))
    picture = Image.new("RGB", SIZE, "white")
    pen = ImageDraw.Draw(picture)
    pen.text((LEFT, 40), name.removeprefix("LoRA2 "), "black", ImageFont.load_default(44))
    said = f"{len(chosen)} layers in {len(columns)} blocks learn their ranks"
    pen.text((LEFT, 100), said, "#666666", ImageFont.load_default(24))
    across = min(40.0, (SIZE[0] - 2 * LEFT) / len(columns))
    down = min(40.0, (SIZE[1] - TOP - 40) / max(map(len, columns.values())))
    for x, cells in enumerate(columns.values()):
        for y, (kind, taken) in enumerate(cells):
            colour = np.array([int(COLOURS[KINDS.index(kind)][i : i + 2], 16) for i in (1, 3, 5)])
            share = 1.0 if taken else PALE
            colour = tuple((share * colour + (1 - share) * 255).astype(int).tolist())
            left, top = LEFT + x * across, TOP + y * down
            pen.rectangle((left, top, left + 0.85 * across, top + 0.85 * down), colour)
    return picture


def main(arguments: list[str]) -> None:
    for name in arguments or TEMPLATES:
        drawn(name).save(WORKFLOWS / f"{name}.jpg", quality=88)
        print(name)


if __name__ == "__main__":
    main(sys.argv[1:])
