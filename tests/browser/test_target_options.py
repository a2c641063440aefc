"""LoRA² Target Options shows its menu first, and workflows keep the order that they always had."""

import pytest

from tests.browser.front_end import FrontEnd

NEWEST_TOO = True
INPUTS = ["targets", "layers", "only_blocks", "without_blocks", "layer_ranks"]  # a promise
VALUES = ["attn2", "cross", "down 4", "mid", "attn2 = 16"]
NODE = {
    "id": 1, "type": "LoRA2TargetOptions", "pos": [100, 100], "size": [400, 300], "flags": {},
    "order": 0, "mode": 0, "inputs": [], "outputs": [], "properties": {},
}  # fmt: skip
SHOWN = "app.graph.nodes[0].widgets.map(w => w.name)"
SENT = "async () => Object.values((await app.graphToPrompt()).output).map(node => node.inputs)"
SAVED = "app.graph.serialize().nodes.map(node => node.widgets_values)"
CLONED = "() => { app.graph.add(app.graph.nodes[0].clone()); }"


@pytest.mark.parametrize("count", range(1, len(VALUES) + 1))
def test_a_saved_workflow_opens_as_it_was(page_of_look: FrontEnd, count: int) -> None:
    """Also one of before there were so many inputs, and what is made of it."""
    page = page_of_look.page
    page_of_look.open({"nodes": [], "links": [], "groups": [], "version": 0.4})
    new = page_of_look.add("LoRA2TargetOptions", (0, 0), [])
    (defaults,) = page.evaluate(SENT)
    assert page.evaluate(SAVED) == [[defaults[name] for name in INPUTS]] and new
    node = NODE | {"widgets_values": VALUES[:count]}
    page_of_look.open({"nodes": [node], "links": [], "groups": [], "version": 0.4})
    older = defaults | {"layers": "regex"}
    wanted = VALUES[:count] + [older[name] for name in INPUTS[count:]]
    assert page.evaluate(SHOWN)[:2] == ["layers", "targets"]
    page.evaluate(CLONED)
    assert page.evaluate(SENT) == 2 * [dict(zip(INPUTS, wanted, strict=True))]
    assert page.evaluate(SAVED) == 2 * [wanted]
