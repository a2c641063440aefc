"""Every text of every view can be read: its contrast to what is painted below it is 4.5 : 1."""

from __future__ import annotations

import random
from typing import NamedTuple

import pytest

from tests.browser.contrast import contrasts
from tests.browser.front_end import FrontEnd
from tests.browser.looks import Look
from tests.browser.made_up import OUTPUTS, rank_map, training

EVERY_THEME = True
LEAST = 4.5
PALETTES = ("dark", "light", "solarized", "arc", "nord", "github", "sand")
NOTE = "It has layers for the text encoder: connect clip to use them."
TEXTS = (
    "Dataset", "Layers", "Info", "Evaluate", "Compress", "CompressFolder", "Merge", "Extract",
    "Save", "SavePreset",
)  # fmt: skip
REPORTS = [f"LoRA2{kind}" for kind in TEXTS]
TRAINED = {
    "lora2.train": [
        training()
        | {
            "notes": ["clip is connected, and nothing of it is trained."],
            "previews": [
                {"step": step, "filename": "none.png", "subfolder": "", "type": "input"}
                for step in (0, 20)
            ],
        }
    ]
}
RUNS = {
    "LoRA2Train": TRAINED,
    "LoRA2TrainQueue": TRAINED,
    "LoRA2RankHeatmap": {"lora2_rank_map": [rank_map(0), rank_map(1)]},
    "LoRA2Load": OUTPUTS["LoRA2Load"] | {"lora2_note": [NOTE]},
    "LoRA2Apply": OUTPUTS["LoRA2Load"] | {"lora2_note": [NOTE]},
} | {kind: {"text": ["pictures 3, entries 3\nskipped: 1"]} for kind in REPORTS}
VIEWS = """() => app.graph.nodes.filter(n => n.widgets?.some(w => w.element?.dataset.lora2View))
    .map(n => n.id)"""
RUN = """([id, output]) => {
    const node = app.graph.getNodeById(id);
    node.setSize([760, 640]);
    node.onExecuted(output);
}"""
FAIL = """([id, kind]) => app.api.dispatchEvent(new CustomEvent('execution_error', { detail: {
    prompt_id: 'p', node_id: String(id), node_type: kind, executed: [], timestamp: 0,
    exception_message: 'It failed.', exception_type: 'ValueError', traceback: [],
    current_inputs: {}, current_outputs: [] } }))"""
TITLES = """async types => {
    const { contrast } = await import('/extensions/comfyui-lora2/drawing/colours.js');
    const { colourOf } = await import('/extensions/comfyui-lora2/drawing/theme.js');
    const title = colourOf(LiteGraph.NODE_TITLE_COLOR);
    return types.map(t => LiteGraph.createNode(t).color).filter(Boolean)
        .map(colour => contrast(title, colourOf(colour)));
}"""
LINKS = """() => [app.canvas.default_connection_color_byType, LGraphCanvas.link_type_colors]
    .map(table => [table.LORA2, table.LORA_MODEL])"""
PAINTED = """colours => import('/extensions/comfyui-lora2/drawing/colours.js').then(
    ({ palette, contrast, amount, difference, css }) => {
        const parse = text => text.match(/\\d+/g).map(Number);
        const least = (one, ...grounds) => Math.min(...grounds.map(g => contrast(one, g)));
        return colours.flatMap(([field, text, share]) => {
            const p = palette(field, text);
            const cells = [amount(share), difference(share, p), difference(-share, p)];
            return [
                least(p.ink, p.ground, p.note, p.fault, p.hover), least(p.faint, p.ground),
                ...cells.map(c => contrast(parse(c.fill), parse(c.ink))),
            ];
        });
    })"""


def fresh(page: FrontEnd, kind: str) -> int:
    """An only node in the middle of the page."""
    page.page.evaluate("app.graph.clear()")
    node = page.add(kind, (0, 0), [])
    page.show(node)
    return node


def check(page: FrontEnd, node: int, *wanted: str) -> None:
    """Measures what a node shows, which has the wanted texts in it."""
    found = contrasts(page.view(node))
    shown = "\n".join(text for text, _, _ in found)
    assert found and all(text in shown for text in wanted), shown
    assert [f for f in found if f[2] < LEAST] == []


def test_what_a_node_says_before_a_run(page_of_look: FrontEnd) -> None:
    kinds = sorted(k for k in page_of_look.known() if k.startswith("LoRA2"))
    page_of_look.page.evaluate("app.graph.clear()")
    for i, kind in enumerate(kinds):
        page_of_look.add(kind, (i % 6 * 900, i // 6 * 900), [])
    views = page_of_look.page.evaluate(VIEWS)
    assert len(views) == len(RUNS)
    for node in views:
        page_of_look.show(node)
        check(page_of_look, node)


@pytest.mark.parametrize("kind", RUNS)
def test_what_a_node_says_after_a_run_and_of_a_fault(page_of_look: FrontEnd, kind: str) -> None:
    node = fresh(page_of_look, kind)
    page_of_look.page.evaluate(RUN, [node, RUNS[kind]])
    page_of_look.show(node)
    check(page_of_look, node)
    page_of_look.page.evaluate(FAIL, [node, kind])
    page_of_look.page.wait_for_timeout(100)
    check(page_of_look, node, "It failed.")
    page_of_look.page.keyboard.press("Escape")  # the front end's own message


def test_every_measure_and_comparison_of_the_heatmap(page_of_look: FrontEnd) -> None:
    node = fresh(page_of_look, "LoRA2RankHeatmap")
    page_of_look.page.evaluate(RUN, [node, RUNS["LoRA2RankHeatmap"]])
    page_of_look.show(node)
    view = page_of_look.view(node)
    for layout in ("beside", "difference"):
        view.locator(f"[data-value={layout}]").click()
        for measure in ("norm", "bytes", "energy", "rank"):
            view.locator(f"[data-value={measure}]").click()  # and the pointer stays on it
            check(page_of_look, node)
    view.locator("rect.cell").first.hover()
    check(page_of_look, node, "rank 24 of 640")
    view.locator("rect.cell").first.click()
    page_of_look.page.wait_for_timeout(100)
    check(page_of_look, node, "Copied")


def test_a_faint_view_would_be_noticed(page_of_look: FrontEnd) -> None:
    node = fresh(page_of_look, "LoRA2Train")
    view = page_of_look.view(node)
    (before,) = [ratio for _, _, ratio in contrasts(view)]
    view.evaluate("e => { e.style.opacity = 0.4 }")
    (after,) = [ratio for _, _, ratio in contrasts(view)]
    assert after < LEAST < before


class Worn(NamedTuple):
    """A page in a palette: its map's ground and texts that can't be read, the contrasts of titles
    on our nodes' colours, the colours of our links.
    """

    ground: str
    faint: list
    titles: list[float]
    links: list


@pytest.fixture(scope="module")
def worn(page_of_look: FrontEnd, look: Look) -> dict[str, Worn]:
    """The page in every palette that the front end has, numbers in the cells of the map too."""
    node = fresh(page_of_look, "LoRA2RankHeatmap")
    page_of_look.page.evaluate(RUN, [node, RUNS["LoRA2RankHeatmap"]])
    page_of_look.show(node)
    view, page = page_of_look.view(node), page_of_look.page
    view.locator("[data-value=difference]").click()
    kinds, seen = sorted(k for k in page_of_look.known() if k.startswith("LoRA2")), {}
    try:
        for palette in PALETTES:
            page_of_look.wear(look.renderer, palette)
            page.wait_for_timeout(400)
            seen[palette] = Worn(
                view.evaluate("e => getComputedStyle(e).backgroundColor"),
                [found for found in contrasts(view) if found[2] < LEAST],
                page.evaluate(TITLES, kinds),
                page.evaluate(LINKS),
            )
    finally:
        page_of_look.wear(look.renderer, look.theme)
        page.wait_for_timeout(400)
    return seen


def test_a_change_of_theme_reaches_open_views(worn: dict[str, Worn]) -> None:
    assert {palette: seen.faint for palette, seen in worn.items() if seen.faint} == {}
    assert len({seen.ground for seen in worn.values()}) >= len(PALETTES) - 1


def test_titles_can_be_read_on_the_colours_of_our_nodes(worn: dict[str, Worn]) -> None:
    """A palette that says that it is light has its nodes' colours lightened by the front end."""
    for palette, seen in worn.items():
        assert palette == "light" or min(seen.titles, default=LEAST) >= LEAST, palette
        assert seen.titles or palette == "sand"


def test_links_keep_their_colours_in_every_theme(worn: dict[str, Worn]) -> None:
    for palette, seen in worn.items():
        own = "#7b2d8b" if palette == "sand" else "#d9a520"
        assert seen.links == [[own, "#a9781c"]] * 2, palette


def test_any_palette_at_all_can_be_read(page_of_look: FrontEnd) -> None:
    """Also those whose text has the colour of its ground."""
    chance = random.Random(0)
    some = [[chance.randrange(256) for _ in range(3)] for _ in range(300)]
    pairs = [[a, b, chance.random()] for a, b in zip(some, some[1:] + some[:1], strict=True)]
    alike = [[[v] * 3, [v] * 3, v / 255] for v in range(0, 256, 5)]
    assert min(page_of_look.page.evaluate(PAINTED, pairs + alike)) >= LEAST
