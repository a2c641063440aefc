"""The example workflows in the real front end: they open whole, run, and the nodes show it."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import pytest
from playwright.sync_api import ConsoleMessage, Page, sync_playwright

from tests.hosting.browser import launch_args
from tests.hosting.server import NAME, REPOSITORY, ComfyServer

WORKFLOWS = REPOSITORY / "example_workflows"
QUICK_START = "LoRA2 playground quick start"
SDXL = "LoRA2 SDXL subject"
PRIOR = "LoRA2 subject with prior preservation"
STYLE, RESUME, FLUX = "LoRA2 SDXL style", "LoRA2 resume a run", "LoRA2 Flux subject"
# marked: their files are not there
LOADERS = {"CheckpointLoaderSimple", "UNETLoader", "DualCLIPLoader", "VAELoader"}
STEPS = 6
READY, RUN = 60_000, 300_000  # milliseconds: a slow machine with nothing else to do

OPEN = """async workflow => {
    await app.loadGraphData(workflow, true, true);
    return app.graph.nodes.map(n => [n.type, n.constructor?.comfyClass ?? n.type, n.has_errors]);
}"""
SHORTEN = """steps => {
    const set = (type, name, value) => app.graph.nodes.filter(n => n.type === type).forEach(
        n => { n.widgets.find(w => w.name === name).value = value; });
    set('LoRA2Train', 'steps', steps);
    set('KSampler', 'steps', 2);
}"""
# What the views show, and what the server sent: the map of the Rank Heatmap's last run.
SHOWN = """() => {
    const view = kind => ({...document.querySelector(`[data-lora2-view=${kind}]`)?.dataset});
    const node = app.graph.nodes.find(n => n.type === 'LoRA2RankHeatmap');
    const samples = app.graph.nodes.filter(n => n.type === 'PreviewImage');
    return {
        train: view('train'),
        heatmap: view('heatmap'),
        map: app.nodeOutputs[node?.id]?.lora2_rank_map?.[0],
        pictures: samples.map(n => app.nodeOutputs[n.id]?.images?.length ?? 0),
    };
}"""
DONE = f"() => {{ const s = ({SHOWN})(); return s.heatmap.layers && s.pictures.every(Boolean); }}"


class FrontEnd:
    """One page of the real front end, and the complaints of our scripts."""

    def __init__(self, page: Page, server: ComfyServer):
        self.page, self.complaints = page, []
        page.on("console", self._note)
        page.on("pageerror", lambda error: self._blame(error.stack or str(error)))
        page.goto(server.address)
        page.wait_for_function("window.app?.graph?.nodes && app.extensionManager", timeout=READY)
        page.wait_for_timeout(1000)
        page.keyboard.press("Escape")  # the dialog of templates, on the first start

    def _note(self, message: ConsoleMessage) -> None:
        if message.type == "error":
            self._blame(f"{message.text} {message.location.get('url', '')}")

    def _blame(self, text: str) -> None:
        if f"/extensions/{NAME}/" in unquote(text):
            self.complaints.append(text)

    def set(self, setting: str, value: Any) -> None:
        """Changes a setting of the front end."""
        change = "([name, value]) => app.extensionManager.setting.set(name, value)"
        self.page.evaluate(change, [setting, value])

    def open(self, workflow: dict) -> list[tuple[str, str, bool]]:
        """Loads a workflow; (type, registered class, whether it is marked as faulty) a node."""
        return [tuple(node) for node in self.page.evaluate(OPEN, workflow)]

    def known(self) -> set[str]:
        """Every type that the front end can make."""
        return set(self.page.evaluate("Object.keys(LiteGraph.registered_node_types)"))


@pytest.fixture
def front_end(server: ComfyServer, chromium: Path) -> Iterator[FrontEnd]:
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=launch_args())
        yield FrontEnd(browser.new_page(viewport={"width": 1900, "height": 960}), server)
        browser.close()


def workflow(name: str) -> dict:
    return json.loads((WORKFLOWS / f"{name}.json").read_text(encoding="utf-8"))


@pytest.mark.parametrize("name", [QUICK_START, SDXL, PRIOR, STYLE, RESUME, FLUX])
def test_an_example_opens_whole(front_end: FrontEnd, name: str) -> None:
    nodes = front_end.open(graph := workflow(name))
    assert len(nodes) == len(graph["nodes"])
    assert {kind for kind, _, _ in nodes} <= front_end.known()
    assert not [kind for kind, _, faulty in nodes if faulty and kind not in LOADERS]
    assert front_end.page.get_by_text(re.compile("missing node", re.IGNORECASE)).count() == 0
    assert front_end.complaints == []


@pytest.mark.parametrize("renderer", ["classic", "vue"])
def test_the_views_show_a_run(front_end: FrontEnd, renderer: str) -> None:
    front_end.set("Comfy.VueNodes.Enabled", renderer == "vue")
    front_end.open(workflow(QUICK_START))
    front_end.page.evaluate(SHORTEN, STEPS + (renderer == "vue"))  # other steps: nothing is cached
    front_end.page.evaluate("app.queuePrompt(0, 1)")
    front_end.page.wait_for_function(DONE, timeout=RUN)

    shown = front_end.page.evaluate(SHOWN)
    layers = len(shown["map"]["cells"])
    assert layers > 0
    assert int(shown["train"]["events"]) >= 2
    assert int(shown["train"]["step"]) == STEPS + (renderer == "vue")
    assert int(shown["train"]["layers"]) == layers == int(shown["heatmap"]["layers"])
    assert shown["pictures"] == [4, 4]
    told = front_end.page.get_attribute("[data-lora2-view=train] canvas", "aria-label")
    assert re.fullmatch(r"step \d/\d, loss [\d.]+, mean rank [\d.]+, [\d.]+ MB", told)
    assert zooms_over(front_end.page, "train")
    assert drawn(front_end.page, "train") and drawn(front_end.page, "heatmap")
    assert front_end.complaints == []


def test_the_page_places_layers_as_the_server_does(front_end: FrontEnd) -> None:
    """web/places.js repeats lora2_core/rank_map.py: the same rows, columns and places."""
    from lora2_core.rank_map import place

    names = [
        "diffusion_model.input_blocks.4.1.transformer_blocks.0.attn1.to_q",
        "diffusion_model.input_blocks.4.1.transformer_blocks.1.attn2.to_out.0",
        "middle_block.1.transformer_blocks.9.attn2.to_k",
        "output_blocks.0.1.transformer_blocks.0.ff.net.2",
        "down_blocks.1.attentions.0.transformer_blocks.0.attn1.to_v",
        "diffusion_model.double_blocks.11.img_attn.qkv",
        "final",
    ]
    script = f"""async names => {{
        const {{ rankMap }} = await import('/extensions/{NAME}/places.js');
        const ranks = Object.fromEntries(names.map((name, i) => [name, i]));
        return rankMap(ranks).cells.map(c => [c.name, c.row, c.column]);
    }}"""
    found = front_end.page.evaluate(script, names)
    assert [tuple(cell) for cell in found] == [(name, *place(name)) for name in names]


def zooms_over(page: Page, kind: str) -> bool:
    """Whether the wheel over a view zooms the graph, as it does beside it."""
    scale = page.evaluate("app.canvas.ds.scale")
    page.locator(f"[data-lora2-view={kind}]").hover(position={"x": 60, "y": 60})
    page.mouse.wheel(0, -200)
    page.wait_for_timeout(500)
    return page.evaluate("app.canvas.ds.scale") > scale


def drawn(page: Page, kind: str) -> bool:
    """Whether a view's canvas holds more than one colour."""
    return page.evaluate(
        """kind => {
        const canvas = document.querySelector(`[data-lora2-view=${kind}] canvas`);
        const { data } = canvas.getContext('2d').getImageData(0, 0, canvas.width, canvas.height);
        return new Set(new Uint32Array(data.buffer)).size > 8;
    }""",
        kind,
    )
