"""A node's help page in the front end's panel at the side, which leaves the node as it is."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from tests.browser.front_end import FrontEnd
from tests.project.test_locales import LANGUAGES, ROOT
from tests.tiers import fast

TITLE = """id => {
    const [x, y] = app.graph.getNodeById(id).pos, { ds, canvas } = app.canvas;
    const { left, top } = canvas.getBoundingClientRect();
    return [left + (x + 120 + ds.offset[0]) * ds.scale, top + (y - 15 + ds.offset[1]) * ds.scale];
}"""
SOON = 10_000  # milliseconds
LOADED = """() => [...document.querySelectorAll('img[src*="LoRA2Train.png"]')]
    .some(i => i.complete && i.naturalWidth > 0)"""
SELECT = """kind => {
    app.graph.clear();
    const node = LiteGraph.createNode(kind);
    app.graph.add(node);
    app.canvas.selectNode(node);
}"""
INFO = {"en": "Info", "ja": "情報", "zh": "信息"}  # the tab in the panel
LOCALE = "app.extensionManager.setting.get('Comfy.Locale')"
NARROW = 280  # pixels: the panel when its owner has made it small
HEADED = """title => [...document.querySelectorAll('.node-help-content h1')]
    .some(h => h.textContent === title)"""
# what reaches over the right edge of the page, or can only be seen by scrolling sideways
WIDER = """width => {
    const page = document.querySelector('.node-help-content');
    page.style.width = `${width}px`;
    const edge = page.getBoundingClientRect().right + 0.5;
    const out = [page, ...page.querySelectorAll('*')].filter(e =>
        (e.clientWidth && e.scrollWidth > e.clientWidth) || e.getBoundingClientRect().right > edge);
    page.style.width = '';
    return out.map(e => `${e.tagName}: ${e.textContent.trim().slice(0, 60)}`);
}"""


@contextmanager
def closed_afterwards(front_end: FrontEnd) -> Iterator[FrontEnd]:
    """The panel is open inside only: the server remembers settings for all pages."""
    try:
        yield front_end
    finally:
        front_end.set("Comfy.RightSidePanel.IsOpen", False)
        foreign = front_end.page.evaluate(LOCALE) != "en"
        front_end.set("Comfy.Locale", "en")
        front_end.page.wait_for_timeout(300)  # until they are stored
        if foreign:
            front_end.page.reload()
            front_end.wait_until_ready()


@pytest.fixture
def panel(page_of_look: FrontEnd) -> Iterator[FrontEnd]:
    """The page for tests that open the panel."""
    with closed_afterwards(page_of_look):
        yield page_of_look


def test_the_panel_shows_a_nodes_help_with_its_picture_and_not_its_view(
    panel: FrontEnd,
) -> None:
    front_end, page = panel, panel.page
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


@pytest.mark.one_look
@pytest.mark.parametrize("language", fast(INFO))
def test_nothing_in_a_page_is_wider_than_a_narrow_panel(panel: FrontEnd, language: str) -> None:
    """Every page, as the front end shows it. English has the longest words."""
    page, wider = panel.page, {}
    panel.set("Comfy.RightSidePanel.IsOpen", True)
    if language != "en":
        panel.set("Comfy.Locale", language)
        page.wait_for_timeout(300)  # until it is stored
        page.reload()
        panel.wait_until_ready()
    page.evaluate(SELECT, "LoRA2Train")
    page.get_by_text(INFO[language], exact=True).first.click(timeout=SOON)
    for kind, title in titles(language).items():
        page.evaluate(SELECT, kind)
        page.wait_for_function(HEADED, arg=title, timeout=SOON)
        if out := page.evaluate(WIDER, NARROW):
            wider[kind] = out
    assert wider == {}


def test_every_language_is_measured() -> None:
    assert INFO.keys() == {"en", *LANGUAGES}


def titles(language: str) -> dict[str, str]:
    """node -> what its page is called, which is the node's own name."""
    pages = sorted((ROOT / "web" / "docs").glob("*.md"))
    if language == "en":
        return {page.stem: page.read_text(encoding="utf-8").split("\n")[0][2:] for page in pages}
    path = ROOT / "locales" / language / "nodeDefs.json"
    names = json.loads(path.read_text(encoding="utf-8"))
    return {page.stem: names[page.stem]["display_name"] for page in pages}
