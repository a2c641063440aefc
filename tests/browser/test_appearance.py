"""The views look as they did: made-up runs of a large model against stored pictures.

`--update-pictures` stores what is seen; look at the pictures before committing them.
"""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.browser.front_end import FrontEnd
from tests.browser.looks import Look
from tests.browser.made_up import OUTPUTS, training

EVERY_THEME = NEWEST_TOO = True
PICTURES = Path(__file__).parent / "pictures"
SIZES = {"LoRA2Train": (560, 846), "LoRA2RankHeatmap": (760, 360), "LoRA2Load": (400, 360)}
COARSE = 6  # pixels: fonts and edges may differ within, blocks of so many are compared
MEAN, APART, SHARE = 4.0, 40.0, 0.03  # of 255: mean difference; more than that in few blocks

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
    page_of_look: FrontEnd, look: Look, kind: str, request: pytest.FixtureRequest
) -> None:
    page = page_of_look.page
    page.evaluate("app.graph.clear()")
    node = page_of_look.add(kind, (0, 0), [])
    page.evaluate(SHOW, [node, SIZES[kind], OUTPUTS[kind]])
    page_of_look.show(node)
    page.mouse.move(5, 5)
    page.wait_for_timeout(600)
    seen = Image.open(io.BytesIO(page_of_look.view(node).screenshot()))
    stored = PICTURES / f"{kind}-{look.renderer}-{look.theme}.png"  # the same in all front ends
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
    page_of_look: FrontEnd,
) -> None:
    Image.new("RGB", (64, 64), "red").save(page_of_look.server.base / "input" / "seen before.png")
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
