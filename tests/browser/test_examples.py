"""The example workflows in the real front end: they open whole, without missing nodes."""

import re
from typing import NamedTuple

import pytest

from tests.browser.boxes import disorder
from tests.browser.front_end import QUICK_START, WORKFLOWS, FrontEnd, workflow
from tests.hosting.server import NAME as PACK

NAMES = sorted(path.stem for path in WORKFLOWS.glob("*.json"))
# marked: their files are not there
LOADERS = {
    "CheckpointLoaderSimple", "UNETLoader", "CLIPLoader", "DualCLIPLoader", "VAELoader",
}  # fmt: skip

REFUSAL = """async () => {
    const { output } = await app.graphToPrompt();
    const body = JSON.stringify({ prompt: output });
    const answer = await fetch('/prompt', { method: 'POST', body });
    const errors = Object.values((await answer.json()).node_errors ?? {});
    return [answer.status, errors.flatMap(e => e.errors.map(f => [e.class_type, f.type]))];
}"""


def test_there_are_examples() -> None:
    assert len(NAMES) >= 3


class Opened(NamedTuple):
    """An example as the page shows it: the nodes as FrontEnd.open returns them, how many notices of
    missing nodes there are, the zoom, whether texts are left out, nodes that lie on others.
    """

    graph: dict
    nodes: list[tuple[str, str, bool]]
    missing: int
    scale: float
    without_text: bool
    disorder: list[str]


@pytest.fixture(scope="module", params=NAMES)
def opened(page_of_look: FrontEnd, request: pytest.FixtureRequest) -> Opened:
    """Opens an example, once for all that is asked of it."""
    page, graph = page_of_look.page, workflow(request.param)
    nodes = page_of_look.open(graph)
    page_of_look.fit()
    missing = page.get_by_text(re.compile("missing node", re.IGNORECASE)).count()
    scale, without_text = page.evaluate("[app.canvas.ds.scale, app.canvas.low_quality]")
    return Opened(graph, nodes, missing, scale, without_text, list(disorder(page_of_look)))


def test_an_example_opens_whole(opened: Opened, page_of_look: FrontEnd) -> None:
    assert len(opened.nodes) == len(opened.graph["nodes"])
    assert {kind for kind, _, _ in opened.nodes} <= page_of_look.known()
    assert not [kind for kind, _, faulty in opened.nodes if faulty and kind not in LOADERS]
    assert opened.missing == 0
    assert page_of_look.complaints == []


def test_an_example_can_be_read_as_it_opens(opened: Opened) -> None:
    """Templates open as a whole; so small that the classic renderer leaves out all text, a graph
    says nothing.
    """
    assert 0.5 < opened.scale < 1, "it fits"
    assert not opened.without_text, f"no text at {opened.scale:.3f}"


def test_no_node_of_an_example_hides_another(opened: Opened) -> None:
    """Nodes are higher in Vue, and higher again where a file is missing."""
    assert opened.disorder == []


def test_the_quick_start_is_the_first_template(page_of_look: FrontEnd) -> None:
    page = page_of_look.page
    page.evaluate("app.extensionManager.command.execute('Comfy.BrowseTemplates')")
    page.get_by_role("dialog").get_by_text(PACK, exact=True).first.click()
    cards = page.locator("[data-testid^='template-workflow-LoRA2']")
    cards.first.wait_for()
    listed = [card.get_attribute("data-testid") for card in cards.all()]
    page.keyboard.press("Escape")
    assert [name.removeprefix("template-workflow-") for name in listed] == [
        QUICK_START, *sorted(set(NAMES) - {QUICK_START}, key=str.lower)
    ]  # fmt: skip


@pytest.mark.parametrize("name", NAMES)
def test_loaders_of_an_example_say_where_their_files_are(name: str) -> None:
    """What the front end's Download button needs, as in the host's own templates."""
    for node in workflow(name)["nodes"]:
        files = [v for v in node.get("widgets_values") or [] if str(v).endswith(".safetensors")]
        if node["type"] not in LOADERS:
            continue
        models = node["properties"]["models"]
        assert [model["name"] for model in models] == files
        for model in models:
            assert model["url"].startswith("https://huggingface.co/")
            assert model["url"].endswith(f"/{model['name']}") and model["directory"]


@pytest.mark.one_look
@pytest.mark.parametrize(
    "name", ["LoRA2 SDXL style", "LoRA2 Flux subject", "LoRA2 Krea 2 captions"]
)
def test_an_example_lacks_only_files(page_of_look: FrontEnd, name: str) -> None:
    """The server's own validation names the loaders, and the folder of pictures, and no more."""
    page_of_look.open(workflow(name))
    status, faults = page_of_look.page.evaluate(REFUSAL)
    assert status == 400
    allowed = {(loader, "value_not_in_list") for loader in LOADERS}
    assert {tuple(fault) for fault in faults} <= allowed | {
        ("LoRA2Dataset", "custom_validation_failed"),
        ("LoadImageDataSetFromFolder", "value_not_in_list"),
    }


@pytest.mark.one_look
@pytest.mark.parametrize(
    ("language", "title", "field", "empty"),
    [
        ("zh", "LoRA² 训练", "步数", "请连接“模型”"),
        pytest.param("ja", "LoRA² 学習", "ステップ数", "「モデル」を接続", marks=pytest.mark.slow),
    ],
)
def test_nodes_speak_the_language_of_the_front_end(
    page_of_look: FrontEnd, language: str, title: str, field: str, empty: str
) -> None:
    """On a page that is loaded in it: names of nodes come once, when a page is loaded."""
    page_of_look.set("Comfy.Locale", language)
    page_of_look.page.wait_for_timeout(300)  # until it is stored
    front_end = FrontEnd(page_of_look.page.context.new_page(), page_of_look.server)
    try:
        node = front_end.add("LoRA2Train", (0, 0), [])
        told = front_end.page.evaluate(
            """id => { const n = app.graph.getNodeById(id);
            return [n.title, n.widgets.map(w => w.label ?? w.name)]; }""",
            node,
        )
        assert told[0] == title and field in told[1]
        assert empty in front_end.view(node).text_content()
    finally:
        front_end.page.close()
        page_of_look.set("Comfy.Locale", "en")
        page_of_look.page.wait_for_timeout(500)
    assert front_end.complaints == []
