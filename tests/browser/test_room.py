"""A view has room for all that it shows, as soon as it is shown, wherever its node was meanwhile:
made-up runs of large models.
"""

from __future__ import annotations

import pytest
from PIL import Image

from lora2_core.adapter.layout import arrange
from tests.browser.front_end import FrontEnd
from tests.browser.made_up import rank_map, training

NEWEST_TOO = True  # Vue measures a node's height in another way
DOUBLE = [f"{s}_{m}" for s in ("img", "txt") for m in ("attn.qkv", "attn.proj", "mlp.0", "mlp.2")]
FLUX = [f"diffusion_model.double_blocks.{i}.{m}" for i in range(19) for m in DOUBLE]
FLUX += [f"diffusion_model.single_blocks.{i}.linear{n}" for i in range(38) for n in (1, 2)]
TEXT = [
    f"text_encoders.clip_{c}.transformer.text_model.encoder.layers.{i}.self_attn.{leaf}_proj"
    for c, depth in (("g", 32), ("l", 12)) for i in range(depth) for leaf in ("q", "k", "v", "out")
]  # fmt: skip
FILES = ["folder/owl_1.safetensors", "cat.safetensors"]
EDGES = """e => {
    const low = r => r.getBoundingClientRect().bottom;
    const node = e.closest('.lg-node') ?? e;
    return {
        view: low(e), node: low(node),
        last: Math.max(...[...e.querySelectorAll('rect.cell, .lora2-map text')].map(low)),
        curve: e.querySelector('.lora2-curve')?.getBoundingClientRect().height ?? null,
        covered: [...e.querySelectorAll('.lora2-map')].some(
            m => low(m) > m.closest('.lora2-view, .fill').getBoundingClientRect().bottom + 1),
    };
}"""
LABELS = """e => [...e.querySelectorAll('text.label')].map(t => [t.textContent, t.getBBox()])
    .map(([text, b]) => [text, b.x, b.y, b.width, b.height])"""
RUN = "([id, output]) => app.graph.getNodeById(id).onExecuted(output)"
EVENT = "event => app.api.dispatchCustomEvent('lora2.train', event)"
NEST = """id => {
    const node = app.graph.getNodeById(id);
    const { node: outer } = app.graph.convertToSubgraph(new Set([node]));
    return [outer.id, outer.subgraph.nodes[0].id];
}"""


def layered(names: list[str], phase: int) -> dict:
    shown = arrange(names).as_json()
    for i, cell in enumerate(shown["cells"]):
        rank = (7 * i + phase) % 40
        cell |= {"rank": rank, "max_rank": 640, "norm": rank / 7, "bytes": rank * 2560}
    return shown


MAPS = {
    "SDXL": {"lora2_rank_map": [rank_map(0)]},
    "two of SDXL": {"lora2_rank_map": [rank_map(0), rank_map(2)], "lora2_files": FILES},
    "two of Flux": {"lora2_rank_map": [layered(FLUX, 0), layered(FLUX, 9)]},
    "two with text encoders": {"lora2_rank_map": [layered(FLUX + TEXT, p) for p in (0, 5)]},
}


def run_of(names: list[str], **more: object) -> dict:
    ranks = [i % 40 for i in range(len(names))]
    return training() | {"map": arrange(names).as_json(), "ranks": ranks} | more


def shown(front_end: FrontEnd, kind: str, output: dict) -> int:
    front_end.page.evaluate("app.graph.clear()")
    node = front_end.add(kind, (0, 0), [])
    front_end.page.wait_for_timeout(300)
    front_end.page.evaluate(RUN, [node, output])
    front_end.show(node, 0.6)
    front_end.page.wait_for_timeout(300)
    return node


def check_room(front_end: FrontEnd, node: int) -> None:
    edges = front_end.view(node).evaluate(EDGES)
    assert 0 < edges["last"] <= edges["view"] + 0.5 <= edges["node"] + 1, edges
    assert not edges["covered"], edges
    assert edges["curve"] is None or edges["curve"] > 15, edges


@pytest.mark.parametrize("output", MAPS.values(), ids=MAPS)
def test_the_last_row_of_a_heatmap_is_inside(page_of_look: FrontEnd, output: dict) -> None:
    node = shown(page_of_look, "LoRA2RankHeatmap", output)
    check_room(page_of_look, node)
    maps = len(output["lora2_rank_map"])
    cells = page_of_look.view(node).locator("rect.cell").count()
    assert cells == sum(len(m["cells"]) for m in output["lora2_rank_map"])
    if maps == 2:
        page_of_look.view(node).locator("[data-value=difference]").click()
        check_room(page_of_look, node)


def test_a_run_with_previews_and_advice_keeps_its_curves(page_of_look: FrontEnd) -> None:
    inputs = page_of_look.server.base / "input"
    Image.new("RGB", (300, 200), "red").save(inputs / "enlarged.png")
    named = {"filename": "enlarged.png", "subfolder": "", "type": "input"}
    advice = ["No GPU is used, so this takes long: LoRA² Playground is the model to try with."] * 3
    previews = [{"step": 10 * i, **named} for i in range(5)]
    event = run_of(FLUX + TEXT, notes=advice, previews=previews, epoch=2.5, epochs=8)
    node = shown(page_of_look, "LoRA2Train", {"lora2.train": [event]})
    check_room(page_of_look, node)
    view, page = page_of_look.view(node), page_of_look.page
    assert "epoch 2.5 / 8.0" in view.inner_text()
    labels = view.evaluate(LABELS)
    blocks = [int(text) for text, *_ in labels if text.isdigit()]
    assert max(blocks) >= 30 and sum(b > 9 for b in blocks) > 5
    for i, (text, x, y, width, height) in enumerate(labels):
        for other, left, top, wide, _ in labels[i + 1 :]:
            apart = x + width <= left or left + wide <= x or abs(y - top) > 0.7 * height
            assert apart, (text, other)
    page.evaluate("id => app.graph.getNodeById(id).setSize([500, 100])", node)
    page.wait_for_timeout(400)
    check_room(page_of_look, node)
    enlarged = page.locator("dialog.lora2-enlarged")
    for close in (lambda: page.keyboard.press("Escape"), lambda: page.mouse.click(20, 300)):
        view.locator(".pictures button").first.click()
        enlarged.wait_for(state="visible")
        assert enlarged.locator("img").evaluate("i => i.decode().then(() => i.naturalWidth)") == 300
        close()
        enlarged.wait_for(state="detached")
    assert page.evaluate("app.graph.nodes.length") == 1


@pytest.mark.parametrize("place", ["collapsed", "subgraph"])
def test_a_run_is_shown_that_happened_out_of_sight(page_of_look: FrontEnd, place: str) -> None:
    page = page_of_look.page
    page.evaluate("app.graph.clear()")
    node = page_of_look.add("LoRA2Train", (0, 0), [])
    page_of_look.show(node)
    if place == "collapsed":
        path = str(node)
        page.evaluate("id => app.graph.getNodeById(id).collapse()", node)
    else:
        outer, node = page.evaluate(NEST, node)
        path = f"{outer}:{node}"
    page.wait_for_timeout(400)
    event = run_of(FLUX, node=path, workflow=page.evaluate("app.graph.id"), run=place)
    page.evaluate(EVENT, event)
    page.wait_for_timeout(300)
    if place == "collapsed":
        page.evaluate("id => app.graph.getNodeById(id).collapse()", node)
    else:
        page.evaluate("id => app.canvas.setGraph(app.graph.getNodeById(id).subgraph)", outer)
    page.locator("[data-lora2-view=train] rect.cell").last.wait_for(state="visible")
    page.wait_for_timeout(500)
    edges = page.locator("[data-lora2-view=train]").evaluate(EDGES)
    assert edges["last"] <= edges["view"] + 0.5 and edges["curve"] > 15
    page.evaluate("app.canvas.setGraph(app.rootGraph)")


def test_a_map_is_walked_by_keyboard_and_picks_are_marked(page_of_look: FrontEnd) -> None:
    output = MAPS["two of SDXL"]
    node = shown(page_of_look, "LoRA2RankHeatmap", output)
    view, page = page_of_look.view(node), page_of_look.page
    first = output["lora2_rank_map"][0]["cells"][0]
    view.locator("svg.lora2-map").first.focus()
    page.keyboard.press("ArrowRight")
    text = view.inner_text()
    assert f"{first['row']}, {first['column']} · owl_1: rank {first['rank']} of" in text
    assert "cat: rank" in text and first["name"] in text
    page.keyboard.press("ArrowDown")
    below = page_of_look.data(node)["hovered"]
    assert below == first["name"].replace("to_q", "to_k")
    page.keyboard.press("ArrowRight")
    assert page_of_look.data(node)["hovered"] == below.replace("blocks.0", "blocks.1")
    page.keyboard.press("ArrowLeft")
    page.keyboard.press("Enter")
    page.wait_for_function("document.querySelectorAll('rect.picked').length === 2")
    assert "to_k" in page_of_look.data(node)["copied"]
    page.evaluate("document.activeElement?.blur()")
    page.wait_for_timeout(200)
    assert "(1 layer)" in view.inner_text()
    page.evaluate(RUN, [node, output])
    page.wait_for_timeout(300)
    assert "Copied" not in view.inner_text() and "Point at a layer" in view.inner_text()
    assert view.locator("rect.picked").count() == 0
    assert page_of_look.complaints == []


@pytest.mark.parametrize("output", MAPS.values(), ids=MAPS)
def test_pictures_have_names_a_scale_and_no_empty_part(
    page_of_look: FrontEnd, output: dict, tmp_path
) -> None:
    node = shown(page_of_look, "LoRA2RankHeatmap", output)
    view, page = page_of_look.view(node), page_of_look.page
    with page.expect_download() as download:
        view.get_by_role("button", name="SVG").click()
    download.value.save_as(tmp_path / "map.svg")
    text = (tmp_path / "map.svg").read_text(encoding="utf-8")
    maps = len(output["lora2_rank_map"])
    assert text.count("<linearGradient") == maps and text.count('class="scale"') == maps
    if "lora2_files" in output:
        assert "owl_1, cat: rank" in text and "owl_1: " in text and "cat: " in text
        assert download.value.suggested_filename == "owl_1 and cat rank.svg"
    with page.expect_download() as download:
        view.get_by_role("button", name="PNG").click()
    download.value.save_as(tmp_path / "map.png")
    picture = Image.open(tmp_path / "map.png").convert("L")
    below_heads = picture.crop((picture.width * 5 // 6, 160, picture.width, picture.height))
    assert below_heads.getextrema()[0] < 200, "the last sixth holds cells too"
