"""The quick start in the real front end, as a user sees and steers it: the live view moves and
outlives a page reload, the heatmap answers the pointer, compares and exports, the slider shows what
a size keeps.
"""

from __future__ import annotations

import csv
import io
import re
import xml.etree.ElementTree as ET
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from PIL import Image

from tests.browser.conftest import WINDOW
from tests.browser.front_end import QUICK_START, RUN, FrontEnd, workflow
from tests.browser.looks import Look

STEPS = 120
SMALL = {"width": 640, "height": 480}
NUMBERS = """e => [...e.querySelectorAll('rect.cell')].map(
    r => [r.dataset.layer, r.nextSibling.textContent])"""
LISTED = """([ids, kinds]) => [
    ...ids.map(id => app.graph.getNodeById(id)), ...kinds.map(kind => LiteGraph.createNode(kind)),
].map(n => [n.type, n.widgets.find(w => w.name === 'lora_name').options.values])"""
LOSE_CONNECTION = """() => {
    const Real = window.WebSocket;
    window.lost = true;
    window.WebSocket = class extends Real {
        constructor(url) { super(window.lost ? url.replace('/ws', '/nothing') : url); }
    };
    app.api.socket.close();
}"""
SVG = "{http://www.w3.org/2000/svg}"

ONE_RANK = 22_400  # bytes in fp16 of one rank in each layer of the playground's attention


class Played:
    """A quick start that ran, with the page reloaded in the middle; ids of its nodes."""

    def __init__(self, front_end: FrontEnd, steps: int):
        self.front_end, self.page, self.steps = front_end, front_end.page, steps
        front_end.open(workflow(QUICK_START))
        front_end.fill("KSampler", steps=2)
        front_end.fill("LoRA2Train", layers="attention")  # a map that fits on the page
        self.model, self.train = map(front_end.id_of, ("LoRA2Playground", "LoRA2Train"))
        self.heatmap, self.save = map(front_end.id_of, ("LoRA2RankHeatmap", "LoRA2Save"))
        model, adapter = ("model", self.model, 0), ("lora2", self.train, 0)
        self.apply = front_end.add("LoRA2Apply", (900, 1000), [model, adapter], keep=0.4)
        link = [("lora", self.train, 1)]
        small = front_end.add("LoRA2Compress", (400, 1000), link, budget_mb=0.05)
        pair = [adapter, ("compare", small, 0)]
        self.pair = front_end.add("LoRA2RankHeatmap", (1400, 1000), pair)
        sampled = [("model", self.apply, 0), ("positive", 8, 0), ("negative", 9, 0)]
        latent = [("latent_image", 10, 0)]
        sampler = front_end.add("KSampler", (900, 1500), sampled + latent, steps=1)
        decoder = front_end.add(
            "VAEDecode", (1300, 1500), [("samples", sampler, 0), ("vae", self.model, 2)]
        )
        front_end.add("PreviewImage", (1600, 1500), [("images", decoder, 0)])
        self.lists = [front_end.add(kind, (3000, 0), []) for kind in ("LoRA2Load", "LoraLoader")]

    @contextmanager
    def queued(self, **values: int) -> Iterator[None]:
        """Queues the run with these values of LoRA² Train. The window is small inside: to draw a
        large one takes longer than the training.
        """
        self.page.set_viewport_size(SMALL)
        self.front_end.show(self.train, 0.4)
        self.front_end.fill("LoRA2Train", **values)
        self.front_end.queue()
        yield
        self.page.set_viewport_size(WINDOW)
        self.page.wait_for_timeout(300)

    def step(self) -> int:
        return int(self.front_end.data(self.train).get("step", 0))

    def wait_for_step(self, step: int) -> None:
        shown = f"document.querySelector('[data-lora2-view=train]')?.dataset.step >= {step}"
        self.page.wait_for_function(shown, timeout=RUN)


@pytest.fixture(scope="module")
def played(page_of_look: FrontEnd, look: Look) -> Played:
    played = Played(page_of_look, STEPS + sum(map(len, look)))  # other steps: nothing is cached
    with played.queued(steps=played.steps):
        played.wait_for_step(5)
        played.before = played.front_end.data(played.train)
        played.page.reload()
        played.front_end.wait_until_ready()
        played.wait_for_step(1)
        played.middle = played.front_end.data(played.train)
        played.front_end.wait_until_idle()
    kinds = "LoRA2Load", "LoraLoader", "LoraLoaderModelOnly", "LoRA2Compress", "LoRA2Info"
    played.saved = played.front_end.output(played.save)["lora2_saved"]
    played.listed = played.page.evaluate(LISTED, [played.lists, kinds])
    return played


def test_a_page_that_is_reloaded_in_the_middle_shows_the_whole_run(played: Played) -> None:
    before, middle = int(played.before["step"]), int(played.middle["step"])
    assert before < middle < played.steps, "the run was still going on"
    assert int(played.middle["points"]) > 0.7 * middle, "the steps before it are in the curve too"
    assert int(played.middle["layers"]) == 56


def test_the_end_of_the_run_is_shown(played: Played) -> None:
    told = played.front_end.view(played.train).get_attribute("aria-label")
    assert re.fullmatch(r"step (\d+)/\1, loss [\d.]+, mean rank [\d.]+, [\d.]+ MB", told)
    data = played.front_end.data(played.train)
    mean = played.front_end.output(played.heatmap)["lora2_rank_map"][0]["mean_rank"]
    assert int(data["step"]) == played.steps
    assert float(data["rank"]) == pytest.approx(mean, abs=1e-2)
    text = played.front_end.view(played.train).inner_text()
    assert f"{played.steps} / {played.steps}" in text
    for name in ("loss", "mean rank", "size / limit", "speed", "took"):
        assert name in text
    assert re.search(r"0\.\d\d / 0\.09 MB", text), "the size and its limit"
    cells = played.front_end.view(played.train).locator("rect.cell")
    assert cells.count() == 56


def test_a_finished_run_is_still_there_after_a_reload(played: Played) -> None:
    before = played.front_end.data(played.train)
    played.page.reload()
    played.front_end.wait_until_ready()
    played.wait_for_step(played.steps)
    after = played.front_end.data(played.train)
    assert {k: after[k] for k in ("step", "points", "mb", "rank", "loss")} == {
        k: before[k] for k in ("step", "points", "mb", "rank", "loss")
    }
    assert played.front_end.data(played.heatmap)["layers"] == "56"
    assert played.front_end.data(played.apply)["keep"] == "0.4"


def test_the_saved_adapter_is_in_every_list(played: Played) -> None:
    """Of nodes that are there and of new ones, on the page that saw the run end."""
    (saved,) = played.saved
    assert [name for name, values in played.listed if saved["lora_name"] not in values] == []


def cells_of(played: Played, node: int, which: int = 0) -> list[dict]:
    """The map as the server made it."""
    script = """async id => {
        const list = await (await fetch('/history?max_items=1')).json();
        return Object.values(list)[0].outputs[id].lora2_rank_map;
    }"""
    return played.page.evaluate(script, str(node))[which]["cells"]


def test_the_heatmap_shows_every_measure_of_every_layer(played: Played) -> None:
    played.front_end.show(played.heatmap)
    view = played.front_end.view(played.heatmap)
    cells = cells_of(played, played.heatmap)
    whole = sum(c["norm"] ** 2 for c in cells)
    values = {
        "norm": lambda c: c["norm"],
        "bytes": lambda c: c["bytes"] / 1e3,
        "energy": lambda c: 100 * c["norm"] ** 2 / whole,
        "rank": lambda c: c["rank"],
    }
    for measure, of in values.items():
        view.locator(f"[data-value={measure}]").click()
        shown = dict(view.evaluate(NUMBERS))
        assert len(shown) == len(cells)
        for cell in cells:
            if shown[cell["name"]]:  # a number that does not fit is left out
                assert float(shown[cell["name"]]) == pytest.approx(of(cell), rel=5e-3)
        assert sum(map(bool, shown.values())) > len(cells) / 2


def test_pointing_names_a_layer_and_clicking_copies_its_pattern(played: Played) -> None:
    played.front_end.show(played.heatmap, 0.7)  # at another zoom
    view = played.front_end.view(played.heatmap)
    cells = cells_of(played, played.heatmap)
    names = [c["name"] for c in cells]
    for i, cell in enumerate((cells[3], cells[-2])):
        rect = view.locator(f"rect[data-layer='{cell['name']}']")
        rect.hover()
        text = view.inner_text()
        assert cell["name"] in text
        assert f"rank {cell['rank']} of {cell['max_rank']}" in text
        rect.click(modifiers=["Shift"] if i else [])
        pattern = played.page.evaluate("navigator.clipboard.readText()")
        wanted = [cells[3]["name"], cells[-2]["name"]][: i + 1]
        assert [n for n in names if re.search(pattern, n)] == wanted


@pytest.fixture
def exported(played: Played, tmp_path: Path):
    """Presses an export button; the bytes of the file."""

    def press(node: int, kind: str) -> bytes:
        played.front_end.show(node)
        button = played.front_end.view(node).get_by_role("button", name=kind)
        with played.page.expect_download() as download:
            button.click()
        assert download.value.suggested_filename.endswith(kind.lower())
        download.value.save_as(tmp_path / kind)
        return (tmp_path / kind).read_bytes()

    return press


def test_the_heatmap_is_exported(played: Played, exported) -> None:
    cells = {c["name"]: c for c in cells_of(played, played.heatmap)}
    rows = list(csv.DictReader(io.StringIO(exported(played.heatmap, "CSV").decode("utf-8-sig"))))
    assert {r["layer"]: int(r["rank"]) for r in rows} == {n: c["rank"] for n, c in cells.items()}
    assert sum(float(r["energy_percent"]) for r in rows) == pytest.approx(100)
    drawing = ET.fromstring(exported(played.heatmap, "SVG"))
    drawn = [r for r in drawing.iter(f"{SVG}rect") if r.get("data-layer")]
    assert {r.get("data-layer") for r in drawn} == set(cells)
    picture = Image.open(io.BytesIO(exported(played.heatmap, "PNG")))
    assert picture.width == 2 * float(drawing.get("width"))
    assert picture.getpixel((3, 3))[:3] == (255, 255, 255)
    assert len(picture.convert("RGB").getcolors(1 << 24)) > 50


def test_two_adapters_are_compared(played: Played, exported) -> None:
    played.front_end.show(played.pair)
    view = played.front_end.view(played.pair)
    view.locator("[data-value=beside]").click()
    first, second = (
        {c["name"]: c["rank"] for c in cells_of(played, played.pair, i)} for i in (0, 1)
    )
    assert first != second and first.keys() == second.keys()
    assert view.locator("svg.lora2-map").count() == 2
    view.locator("[data-value=difference]").click()
    assert view.locator("svg.lora2-map").count() == 1
    for name, text in view.evaluate(NUMBERS):
        assert int(text.replace("−", "-")) == second.get(name, 0) - first.get(name, 0)
    rows = csv.DictReader(io.StringIO(exported(played.pair, "CSV").decode("utf-8-sig")))
    for row in rows:
        assert int(row["compare_rank"] or 0) == second.get(row["layer"], 0)


def test_the_slider_shows_what_a_size_keeps(played: Played) -> None:
    played.front_end.show(played.apply, 1.2)
    view = played.front_end.view(played.apply)
    script = """async id => Object.values(await (await fetch('/history?max_items=1')).json())[0]
        .outputs[id].lora2_size_curve[0]"""
    curve = played.page.evaluate(script, str(played.apply))
    box = view.locator("svg.lora2-curve").bounding_box()
    for share in (0.3, 0.8):
        played.page.mouse.click(box["x"] + box["width"] * share, box["y"] + box["height"] / 2)
        data = played.front_end.data(played.apply)
        keep = played.page.evaluate(
            "id => app.graph.getNodeById(id).widgets.find(w => w.name === 'keep').value",
            played.apply,
        )
        assert float(data["keep"]) == pytest.approx(keep) and abs(keep - share) < 0.15
        at = round(keep * 100) - 1
        assert (
            float(data["mb"]) == curve["mb"][at] and float(data["rank"]) == curve["mean_rank"][at]
        )
        assert float(data["energy"]) == pytest.approx(100 * curve["energy"][at], abs=0.01)
        assert f"{curve['mb'][at]:.2f} MB" in view.inner_text()
    played.page.mouse.move(box["x"] + 60, box["y"] + 40)  # and by dragging
    played.page.mouse.down()
    played.page.mouse.move(box["x"] + box["width"] - 5, box["y"] + 40, steps=6)
    played.page.mouse.up()
    assert float(played.front_end.data(played.apply)["keep"]) > 0.95


@pytest.mark.parametrize("node", ["train", "heatmap"])
def test_the_graph_is_zoomed_and_panned_over_a_view_too(played: Played, node: str) -> None:
    played.front_end.show(getattr(played, node))
    seen, mouse = "[app.canvas.ds.scale, ...app.canvas.ds.offset]", played.page.mouse
    before = played.page.evaluate(seen)
    box = played.front_end.view(getattr(played, node)).bounding_box()
    mouse.move(box["x"] + 60, box["y"] + 60)
    mouse.wheel(0, -200)
    played.page.wait_for_timeout(500)
    zoomed = played.page.evaluate(seen)
    assert zoomed[0] > before[0]
    mouse.down(button="middle")
    mouse.move(box["x"] + 140, box["y"] + 110, steps=4)
    mouse.up(button="middle")
    played.page.wait_for_timeout(300)
    panned = played.page.evaluate(seen)
    assert panned[0] == zoomed[0]
    assert [a - b for a, b in zip(panned[1:], zoomed[1:], strict=True)] == pytest.approx(
        [80 / zoomed[0], 50 / zoomed[0]], abs=15
    )


def test_a_change_of_theme_is_followed(played: Played, look: Look) -> None:
    seen = "e => [getComputedStyle(e).color, getComputedStyle(e).backgroundColor]"
    view = played.front_end.view(played.train)
    before = view.evaluate(seen)
    played.front_end.wear(look.renderer, "light" if look.theme == "dark" else "dark")
    played.page.wait_for_timeout(500)
    after = played.front_end.view(played.train).evaluate(seen)
    assert before[0] != after[0] and before[1] != after[1]
    played.front_end.wear(look.renderer, look.theme)
    played.page.wait_for_timeout(500)
    assert played.front_end.view(played.train).evaluate(seen) == before


def test_what_ended_while_the_connection_was_lost_is_shown(played: Played) -> None:
    steps = played.steps // 4
    running = f"document.querySelector('[data-lora2-view=train]').dataset.steps == {steps}"
    with played.queued(steps=steps):
        played.page.wait_for_function(running, timeout=RUN)
        played.page.evaluate(LOSE_CONNECTION)
        played.front_end.wait_until_idle()
    assert played.step() < steps
    played.page.evaluate("window.lost = false")
    played.wait_for_step(steps)
    mean = sum(c["bytes"] for c in cells_of(played, played.heatmap)) / ONE_RANK
    assert float(played.front_end.data(played.train)["rank"]) == pytest.approx(mean, abs=1e-2)


@pytest.mark.slow
def test_a_cancelled_run_is_still_there_after_a_reload(played: Played) -> None:
    steps = 4 * played.steps
    begun = f"""(({{dataset: d}}) => d.steps == {steps} && d.step >= 3)(
        document.querySelector('[data-lora2-view=train]'))"""
    with played.queued(steps=steps):
        played.page.wait_for_function(begun, timeout=RUN)
        played.page.evaluate("app.api.interrupt(null)")
        played.front_end.wait_until_idle()
    before = played.front_end.data(played.train)
    assert re.fullmatch(
        r"Cancelled\. Kept so far: lora2/interrupted_\d+_?\.safetensors", before["note"]
    )
    played.page.reload()
    played.front_end.wait_until_ready()
    played.wait_for_step(3)
    after = played.front_end.data(played.train)
    told = ("step", "steps", "points", "mb", "rank", "loss", "note")
    assert [after[k] for k in told] == [before[k] for k in told]
    assert int(after["step"]) < steps


def test_our_scripts_did_not_complain(played: Played) -> None:
    assert played.front_end.complaints == []
    assert played.front_end.server.running()
