"""The views look as they did: made-up runs of a large model against stored pictures.

`--update-pictures` stores what is seen; look at the pictures before committing them.
"""

from __future__ import annotations

import io
import math
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from lora2_core.rank_map import arrange
from tests.browser.front_end import FrontEnd
from tests.hosting.server import ComfyServer

PICTURES = Path(__file__).parent / "pictures"
SIZES = {"LoRA2Train": (560, 820), "LoRA2RankHeatmap": (760, 360), "LoRA2Load": (400, 360)}
COARSE = 6  # pixels: fonts and edges may differ within, blocks of so many are compared
MEAN, APART, SHARE = 4.0, 40.0, 0.03  # of 255: mean difference; more than that in few blocks

LAYERS = [
    f"diffusion_model.{block}.1.transformer_blocks.{i}.{attention}.{leaf}"
    for block, depth in (
        ("input_blocks.4", 2), ("input_blocks.7", 10), ("middle_block", 10),
        ("output_blocks.0", 10), ("output_blocks.3", 2),
    )
    for i in range(depth)
    for attention in ("attn1", "attn2")
    for leaf in ("to_q", "to_k", "to_v", "to_out.0")
]  # fmt: skip


def ranks(phase: float) -> list[int]:
    return [
        round(24 + 20 * math.sin(0.7 * i + phase) * math.cos(i / 40)) for i in range(len(LAYERS))
    ]


def rank_map(phase: float) -> dict:
    shown = arrange(LAYERS).as_json()
    for cell, rank in zip(shown["cells"], ranks(phase), strict=True):
        cell |= {"rank": rank, "max_rank": 640, "norm": rank / 7, "bytes": rank * 2560}
    return shown


def training() -> dict:
    points = []
    for step in range(1, 301, 3):
        loss = 0.1 + 0.7 * math.exp(-step / 60)
        points.append(
            [step, loss + 0.06 * math.sin(step * 1.7), loss, 24 + 40 * math.exp(-step / 80), 30.5]
        )
    return {
        "node": "1", "workflow": None, "run": "r", "step": 298, "steps": 500, "loss": 0.11,
        "smooth": 0.105, "mean_rank": 24.96, "mb": 30.5, "ceiling": 33.0, "pace": 1.6,
        "left": 126.0, "passed": 190.0, "ranks": ranks(0), "text": "step 298/500",
        "points": points, "map": arrange(LAYERS).as_json(), "notes": [], "previews": [],
    }  # fmt: skip


OUTPUTS = {
    "LoRA2Train": {"lora2.train": [training()]},
    "LoRA2RankHeatmap": {"lora2_rank_map": [rank_map(0)]},
    "LoRA2Load": {
        "lora2_size_curve": [
            {
                "mb": [i * 1.5 for i in range(1, 101)],
                "mean_rank": [i * 0.64 for i in range(1, 101)],
                "energy": [1 - math.exp(-i / 14) * (1 - i / 100) for i in range(1, 101)],
            }
        ]
    },
}
SHOW = """([id, size, output]) => {
    const node = app.graph.getNodeById(id);
    node.setSize(size);
    node.onExecuted(output);
    const keep = node.widgets.find(w => w.name === 'keep');
    if (keep) { keep.value = 0.25; keep.callback?.(0.25); }
}"""


def coarse(picture: Image.Image) -> np.ndarray:
    size = (max(1, picture.width // COARSE), max(1, picture.height // COARSE))
    return np.asarray(picture.convert("RGB").resize(size, Image.Resampling.BOX), dtype=float)


@pytest.mark.parametrize("kind", SIZES)
def test_a_view_looks_as_it_did(
    page_of_look: FrontEnd, look: tuple[str, str], kind: str, request: pytest.FixtureRequest
) -> None:
    page = page_of_look.page
    page.evaluate("app.graph.clear()")
    node = page_of_look.add(kind, (0, 0), [])
    page.evaluate(SHOW, [node, SIZES[kind], OUTPUTS[kind]])
    page_of_look.show(node)
    page.mouse.move(5, 5)
    page.wait_for_timeout(600)
    seen = Image.open(io.BytesIO(page_of_look.view(node).screenshot()))
    stored = PICTURES / f"{kind}-{'-'.join(look)}.png"
    if request.config.getoption("update_pictures"):
        seen.convert("RGB").quantize(64).save(stored, optimize=True)
    wanted = Image.open(stored)
    assert abs(seen.width - wanted.width) <= 4 and abs(seen.height - wanted.height) <= 4
    apart = np.abs(coarse(seen.resize(wanted.size)) - coarse(wanted)).max(axis=2)
    assert apart.mean() < MEAN
    assert (apart > APART).mean() < SHARE


def test_a_change_would_be_noticed() -> None:
    """The tolerance is less than a cell's change of colour or a line's change of place."""
    picture = Image.open(PICTURES / "LoRA2RankHeatmap-classic-dark.png").convert("RGB")
    moved = Image.new("RGB", picture.size)
    moved.paste(picture, (0, 14))
    apart = np.abs(coarse(moved) - coarse(picture)).max(axis=2)
    assert apart.mean() >= MEAN or (apart > APART).mean() >= SHARE


def test_pictures_of_a_run_appear_when_there_are_some(
    page_of_look: FrontEnd, server: ComfyServer, look: tuple[str, str]
) -> None:
    Image.new("RGB", (64, 64), "red").save(server.base / "input" / "seen before.png")
    page_of_look.page.evaluate("app.graph.clear()")
    node = page_of_look.add("LoRA2Train", (0, 0), [])
    page_of_look.page.evaluate(SHOW, [node, (560, 900), OUTPUTS["LoRA2Train"]])
    picture = page_of_look.view(node).locator("img")
    assert picture.count() == 0
    named = {"step": 20, "filename": "seen before.png", "subfolder": "", "type": "input"}
    event = training() | {"run": "another", "previews": [named]}
    page_of_look.page.evaluate(SHOW, [node, (560, 900), {"lora2.train": [event]}])
    page_of_look.show(node)
    picture.wait_for(state="visible")
    assert picture.evaluate("i => i.decode().then(() => i.naturalWidth)") == 64
