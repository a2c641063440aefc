"""A workflow that was saved before an input was there opens with what it meant."""

import pytest

from tests.browser.front_end import FrontEnd

NEWEST_TOO = True
# node -> values that it was saved with before it had `layers`, a promise
VALUES = {
    "LoRA2Train": [500, 1, 1e-4, "adaptive", 64, 0, 256, 0],
    "LoRA2Layers": [64],
}
NODE = {
    "id": 1, "pos": [100, 100], "size": [400, 300], "flags": {}, "order": 0, "mode": 0,
    "inputs": [], "outputs": [], "properties": {},
}  # fmt: skip
SHOWN = "app.graph.nodes[0].widgets.find(w => w.name === 'layers').value"
SAVED = "app.graph.serialize().nodes.map(node => node.widgets_values)"


@pytest.mark.parametrize("name", VALUES)
def test_layers_stay_the_attention(page_of_look: FrontEnd, name: str) -> None:
    page = page_of_look.page
    page_of_look.open({"nodes": [], "links": [], "groups": [], "version": 0.4})
    page_of_look.add(name, (0, 0), [])
    assert page.evaluate(SHOWN) == "auto", "a new node trains all layers"
    for values, layers in (
        (VALUES[name], "attention"),
        ([*VALUES[name], 0][: len(VALUES[name]) + (name == "LoRA2Train")], "attention"),
    ):
        node = NODE | {"type": name, "widgets_values": values}
        page_of_look.open({"nodes": [node], "links": [], "groups": [], "version": 0.4})
        assert page.evaluate(SHOWN) == layers
    saved = page.evaluate(SAVED)
    page_of_look.open({"nodes": [node | {"widgets_values": saved[0]}], "links": [], "groups": [],
                       "version": 0.4})  # fmt: skip
    assert page.evaluate(SHOWN) == "attention" and page.evaluate(SAVED) == saved
