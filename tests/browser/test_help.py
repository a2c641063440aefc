"""A node's help page in the front end's panel at the side, which leaves the node as it is."""

import pytest

from tests.browser.front_end import FrontEnd

TITLE = """id => {
    const [x, y] = app.graph.getNodeById(id).pos, { ds, canvas } = app.canvas;
    const { left, top } = canvas.getBoundingClientRect();
    return [left + (x + 120 + ds.offset[0]) * ds.scale, top + (y - 15 + ds.offset[1]) * ds.scale];
}"""
SOON = 10_000  # milliseconds
LOADED = """() => [...document.querySelectorAll('img[src*="LoRA2Train.png"]')]
    .some(i => i.complete && i.naturalWidth > 0)"""


def test_the_panel_shows_a_nodes_help_with_its_picture_and_not_its_view(
    page_of_look: FrontEnd,
) -> None:
    front_end, page = page_of_look, page_of_look.page
    page.evaluate("app.graph.clear()")
    train = front_end.add("LoRA2Train", (0, 0), [])
    front_end.show(train, 0.8)
    view = front_end.view(train)
    before = view.bounding_box()
    page.mouse.click(*page.evaluate(TITLE, train))
    front_end.set("Comfy.RightSidePanel.IsOpen", True)
    page.get_by_text("learning_rate", exact=True).last.wait_for(timeout=SOON)
    assert page.get_by_text("lora2_train_view").count() == 0
    page.get_by_text("Info", exact=True).first.click(timeout=SOON)
    page.get_by_role("heading", name="LoRA² Train", exact=True).wait_for(timeout=SOON)
    page.wait_for_function(LOADED, timeout=SOON)
    page.wait_for_timeout(1000)
    assert view.bounding_box()["width"] == pytest.approx(before["width"], abs=1)
    complaints = [c for c in front_end.complaints if not c.endswith("/en.md")]  # asked for first
    assert complaints == []
    front_end.set("Comfy.RightSidePanel.IsOpen", False)
