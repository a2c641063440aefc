"""The table of captions in LoRA² Dataset: what training uses, edited with the keyboard, saved
beside the pictures, never lost in silence.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from PIL import Image
from playwright.sync_api import Locator, expect

from lora2_core.dataset.folder import scan
from lora2_core.dataset.plan import DatasetSettings
from tests.browser.contrast import contrasts
from tests.browser.front_end import FrontEnd

NEWEST_TOO = EVERY_THEME = True
LEAST = 4.5  # contrast
HOSTILE = "<img src=x onerror=window.hurt=1>"
ODD = ("100%.png", "a%22b.png", "é ü (1).png", "a;b.png", "it's.png", "a..b.png", "a+b&c=d#e.png",
       "{0} [input].png", "🦉.png")  # fmt: skip
ROWS = """view => [...view.querySelectorAll('.row')].map(row => [
    row.querySelector('b').textContent, row.querySelector('textarea').value,
    row.querySelector('.about .faint').textContent])"""
SEEN = """view => [...view.querySelectorAll('textarea')].every(e => {
    const { color, backgroundColor } = getComputedStyle(e);
    return color === getComputedStyle(view).color && backgroundColor === 'rgba(0, 0, 0, 0)'; })"""
LEAVE = """() => {
    const event = new Event('beforeunload', { cancelable: true });
    window.dispatchEvent(event);
    return event.defaultPrevented; }"""


class Table:
    """The table of one LoRA² Dataset node."""

    def __init__(self, front_end: FrontEnd, folder: Path, **values: str):
        self.front_end, self.folder = front_end, folder
        front_end.page.evaluate("app.graph.clear()")
        front_end.page.evaluate("app.refreshComboInNodes()")
        self.node = front_end.add(
            "LoRA2Dataset", (0, 0), [], folder=folder.name, **{"caption": "", **values}
        )
        front_end.show(self.node)
        self.view = front_end.view(self.node)
        self.view.get_by_role("button", name="Captions", exact=True).click()
        self.view.locator(".row").first.wait_for(timeout=20_000)
        front_end.show(self.node, 0.9)

    @property
    def rows(self) -> list[list[str]]:
        """Name, caption and origin of every row."""
        return self.view.evaluate(ROWS)

    def field(self, name: str) -> Locator:
        return self.view.get_by_label(f"Caption of {name}", exact=True)

    def note(self, name: str) -> Locator:
        return self.field(name).locator("xpath=../..").locator("[role=status]")

    def type(self, name: str, text: str) -> None:
        """Types a caption and leaves the field."""
        self.field(name).fill(text)
        self.field(name).blur()

    def saved(self, name: str, text: str) -> None:
        """Waits until nothing is left to save; then the text is in the file."""
        expect(self.note(name)).to_be_hidden(timeout=20_000)
        assert (self.folder / name).with_suffix(".txt").read_text(encoding="utf-8") == text


@pytest.fixture
def make(page_of_look: FrontEnd) -> Iterator[Callable[..., Path]]:
    """Makes folders of pictures in the input folder, which are removed after the test."""
    made = []

    def folder(*names: str, **captions: str) -> Path:
        folder = page_of_look.server.base / "input" / f"captions {len(made)}"
        made.append(folder)
        for name in names:
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            Image.new("RGB", (32, 32), "red").save(folder / name)
        for name, text in captions.items():
            (folder / f"{name}.txt").write_text(text, encoding="utf-8")
        return folder

    yield folder
    for path in made:
        shutil.rmtree(path)
    assert page_of_look.page.evaluate("window.hurt === undefined")
    assert page_of_look.complaints == []


def test_the_table_shows_what_training_uses_and_where_it_comes_from(page_of_look, make) -> None:
    folder = make("a.png", "b.png", "c.png", "3_tawny owl/d.png", f"{HOSTILE}.png", a=HOSTILE, b="")
    (folder / "c.caption").write_text("see")
    table = Table(page_of_look, folder)
    assert table.rows == [
        ["3_tawny owl/d.png", "tawny owl", "no file: the folder's name"],
        [f"{HOSTILE}.png", "", "no caption yet"],
        ["a.png", HOSTILE, "a.txt"],
        ["b.png", "", "b.txt is empty: no words"],
        ["c.png", "see", "c.caption"],
    ]
    assert table.note(f"{HOSTILE}.png").text_content().startswith(f"'{HOSTILE}.txt' can't be")
    assert table.field(f"{HOSTILE}.png").get_attribute("readonly") is not None
    page_of_look.page.evaluate(
        """id => { const w = app.graph.getNodeById(id).widgets.find(w => w.name === 'caption');
        w.value = ' a bird '; w.callback?.(w.value); }""",
        table.node,
    )
    expect(table.field("3_tawny owl/d.png")).to_have_value("a bird", timeout=20_000)
    settings = DatasetSettings(caption=" a bird ")
    used = {picture.name: settings.caption_of(picture) for picture in scan(folder).pictures}
    assert {name: caption for name, caption, _ in table.rows} == used
    table.type("c.png", "an owl")
    table.saved("c.png", "an owl")
    assert (folder / "c.caption").read_text() == "see"
    expect(table.view.locator(".row").nth(4).locator(".faint")).to_have_text(
        "c.txt", timeout=20_000
    )


def test_the_keyboard_is_enough(page_of_look, make) -> None:
    """From button to fields, and Escape takes back what was typed."""
    folder = make("a.png", "b.png", b="before")
    table, keys = Table(page_of_look, folder), page_of_look.page.keyboard
    table.view.get_by_role("button", name="Captions", exact=True).focus()
    nodes = page_of_look.page.evaluate("app.graph.nodes.length")
    for key in ("Tab", "Tab"):  # past the picture, which can be enlarged
        keys.press(key)
    if not table.field("a.png").evaluate("e => e === document.activeElement"):
        keys.press("Tab")  # Firefox and Chromium stop at a list that scrolls
    keys.type("an owl")
    expect(table.note("a.png")).to_have_text("Not saved yet.")
    keys.press("Tab")
    table.saved("a.png", "an owl")
    keys.press("Tab")
    assert table.field("b.png").evaluate("e => e === document.activeElement")
    keys.press("Control+a")
    keys.press("Delete")
    keys.press("Escape")
    assert table.field("b.png").input_value() == "before" and table.note("b.png").is_hidden()
    keys.press("Tab")
    assert (folder / "b.txt").read_text() == "before"
    assert page_of_look.page.evaluate("app.graph.nodes.length") == nodes


def test_a_file_that_changed_meanwhile_is_not_replaced_unasked(page_of_look, make) -> None:
    folder = make("a.png", a="first")
    table = Table(page_of_look, folder)
    (folder / "a.txt").write_text("of a captioner")
    table.type("a.png", "mine")
    told = "Not saved: the file has changed meanwhile. It says: of a captioner"
    expect(table.note("a.png")).to_have_text(told, timeout=20_000)
    assert (folder / "a.txt").read_text() == "of a captioner"
    assert min(contrast for *_, contrast in contrasts(table.view)) >= LEAST
    table.view.get_by_role("button", name="Save it anyway").click()
    table.saved("a.png", "mine")


def test_a_draft_is_saved_before_a_run_and_survives_the_graph(page_of_look, make) -> None:
    folder, other = make("a.png", a="old"), make("z.png")
    table, page = Table(page_of_look, folder), page_of_look.page
    page_of_look.set("Comfy.Window.UnloadConfirmation", False)  # the host's own question
    table.field("a.png").focus()
    page.keyboard.type("x")
    assert page.evaluate(LEAVE)
    # the field keeps the focus: a run queued with a key
    page.evaluate("app.api.queuePrompt(0, { output: {}, workflow: {} }).catch(() => {})")
    table.saved("a.png", table.field("a.png").input_value())
    assert "x" in (folder / "a.txt").read_text() and not page.evaluate(LEAVE)
    page.route("**/upload/image", lambda route: route.abort())
    table.type("a.png", "lost?")
    expect(table.note("a.png")).to_contain_text("Not saved: ", timeout=20_000)
    table = Table(page_of_look, other)  # another graph, another folder
    assert page.evaluate(LEAVE)
    page.unroute("**/upload/image")
    table = Table(page_of_look, folder)
    assert table.field("a.png").input_value() == "lost?"
    table.view.get_by_role("button", name="Save it anyway").click()
    table.saved("a.png", "lost?")


def test_many_pictures_come_in_pages(page_of_look, make) -> None:
    folder, asked = make(*(f"{i:03}.png" for i in range(60))), []
    page_of_look.page.on("request", lambda r: "/view?" in r.url and asked.append(r.url))
    table = Table(page_of_look, folder)
    button, told = table.view.get_by_role("button", name="Next"), table.view.get_by_role("status")
    for first in (0, 25, 50):
        expect(told.last).to_have_text(
            f"{first + 1} to {min(first + 25, 60)} of 60", timeout=20_000
        )
        assert table.rows[0][0] == f"{first:03}.png" and len(asked) <= first + 25
        assert table.rows[-1][0] == f"{min(first + 24, 59):03}.png"
        assert button.is_disabled() == (first == 50)
        button.evaluate("e => e.click()")
    table.type("055.png", "the last page")
    table.saved("055.png", "the last page")
    expect(told.last).to_have_text("51 to 60 of 60")


@pytest.mark.one_look
def test_captions_of_odd_names_lie_beside_their_pictures(page_of_look, make) -> None:
    folder = make(*ODD)
    table = Table(page_of_look, folder)
    for name in ODD:
        table.type(name, f"of {name}")
        table.saved(name, f"of {name}")
    assert {p.name: p.caption for p in scan(folder).pictures} == {n: f"of {n}" for n in ODD}
    assert len(list(folder.iterdir())) == 2 * len(ODD)


@pytest.mark.one_look
def test_a_link_is_never_written_through(page_of_look, make) -> None:
    """Neither one that was listed, nor one that is there when the caption is saved."""
    folder, secret = make("a.png", "b.png"), page_of_look.server.base / "secret.txt"
    secret.write_text("of somebody else")
    (folder / "a.txt").symlink_to(secret)
    table = Table(page_of_look, folder)
    assert table.field("a.png").get_attribute("readonly") is not None
    assert "is a link" in table.note("a.png").text_content()
    (folder / "b.txt").symlink_to(secret)
    table.type("b.png", "mine")
    expect(table.note("b.png")).to_contain_text("is a link", timeout=20_000)
    assert secret.read_text() == "of somebody else"


def test_its_texts_can_be_read(page_of_look, make) -> None:
    folder = make(*(f"{i:02}.png" for i in range(30)))
    (folder / "bad.psd").write_bytes(b"")
    table = Table(page_of_look, folder)
    table.field("00.png").fill("a draft")
    faint = [found for found in contrasts(table.view) if found[-1] < LEAST]
    assert faint == [] and table.view.evaluate(SEEN)
    table.field("00.png").press("Escape")
