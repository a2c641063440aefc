"""The example workflows in the real front end: they open whole, without missing nodes."""

import re

import pytest

from tests.browser.boxes import disorder
from tests.browser.front_end import WORKFLOWS, FrontEnd, workflow

NAMES = sorted(path.stem for path in WORKFLOWS.glob("*.json"))
# marked: their files are not there
LOADERS = {"CheckpointLoaderSimple", "UNETLoader", "DualCLIPLoader", "VAELoader"}

REFUSAL = """async () => {
    const { output } = await app.graphToPrompt();
    const body = JSON.stringify({ prompt: output });
    const answer = await fetch('/prompt', { method: 'POST', body });
    const errors = Object.values((await answer.json()).node_errors ?? {});
    return [answer.status, errors.flatMap(e => e.errors.map(f => [e.class_type, f.type]))];
}"""


def test_there_are_examples() -> None:
    assert len(NAMES) >= 3


@pytest.mark.parametrize("name", NAMES)
def test_an_example_opens_whole(front_end: FrontEnd, name: str) -> None:
    nodes = front_end.open(graph := workflow(name))
    assert len(nodes) == len(graph["nodes"])
    assert {kind for kind, _, _ in nodes} <= front_end.known()
    assert not [kind for kind, _, faulty in nodes if faulty and kind not in LOADERS]
    assert front_end.page.get_by_text(re.compile("missing node", re.IGNORECASE)).count() == 0
    assert front_end.complaints == []


@pytest.mark.parametrize("name", NAMES)
def test_an_example_can_be_read_as_it_opens(front_end: FrontEnd, name: str) -> None:
    """Templates open as a whole; so small that the classic renderer leaves out all text, a graph
    says nothing.
    """
    front_end.open(workflow(name))
    front_end.page.evaluate("app.extensionManager.command.execute('Comfy.Canvas.FitView')")
    front_end.page.wait_for_timeout(1500)
    scale = front_end.page.evaluate("app.canvas.ds.scale")
    assert 0.5 < scale < 1, "it fits"
    assert not front_end.page.evaluate("app.canvas.low_quality"), f"no text at {scale:.3f}"


@pytest.mark.parametrize("renderer", ["classic", "vue"])
def test_no_node_of_an_example_hides_another(front_end: FrontEnd, renderer: str) -> None:
    """Nodes are higher in Vue, and higher again where a file is missing."""
    front_end.wear(renderer, "dark")
    found = {}
    for name in NAMES:
        front_end.open(workflow(name))
        front_end.page.evaluate("app.extensionManager.command.execute('Comfy.Canvas.FitView')")
        front_end.page.wait_for_timeout(800)  # it glides there
        found |= {name: lines} if (lines := list(disorder(front_end))) else {}
    assert not found


@pytest.mark.parametrize("name", ["LoRA2 SDXL style", "LoRA2 Flux subject"])
def test_an_example_lacks_only_files(front_end: FrontEnd, name: str) -> None:
    """The server's own validation names the loaders, and the folder of pictures, and no more."""
    front_end.open(workflow(name))
    status, faults = front_end.page.evaluate(REFUSAL)
    assert status == 400
    allowed = {(loader, "value_not_in_list") for loader in LOADERS}
    assert {tuple(fault) for fault in faults} <= allowed | {
        ("LoRA2Dataset", "custom_validation_failed")
    }


@pytest.mark.parametrize(
    ("language", "title", "field", "empty"),
    [
        ("zh", "LoRA² 训练", "步数", "请连接模型"),
        ("ja", "LoRA² 学習", "ステップ数", "モデルをつないで"),
    ],
)
def test_nodes_speak_the_language_of_the_front_end(
    front_end: FrontEnd, language: str, title: str, field: str, empty: str
) -> None:
    front_end.set("Comfy.Locale", language)
    try:
        front_end.page.reload()
        front_end.wait_until_ready()
        node = front_end.add("LoRA2Train", (0, 0), [])
        told = front_end.page.evaluate(
            """id => { const n = app.graph.getNodeById(id);
            return [n.title, n.widgets.map(w => w.label ?? w.name)]; }""",
            node,
        )
        assert told[0] == title and field in told[1]
        assert empty in front_end.view(node).text_content()
    finally:
        front_end.set("Comfy.Locale", "en")
        front_end.page.wait_for_timeout(500)
    assert front_end.complaints == []
