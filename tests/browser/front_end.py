"""One page of the real front end, as a user has it: settings, graphs, runs, what nodes show."""

from __future__ import annotations

import json
from typing import Any
from urllib.parse import unquote

from playwright.sync_api import ConsoleMessage, Locator, Page

from tests.hosting.server import NAME, REPOSITORY, ComfyServer

WORKFLOWS = REPOSITORY / "example_workflows"
QUICK_START = "LoRA2 playground quick start"
READY, RUN = 60_000, 300_000  # milliseconds: a slow machine with nothing else to do
# A palette as users make them: light without saying so, a translucent field in a new notation,
# text that is too faint, links of our kinds.
SAND = {
    "id": "sand",
    "name": "Sand",
    "colors": {
        "node_slot": {"LORA2": "#7b2d8b"},
        "litegraph_base": {
            "NODE_DEFAULT_BGCOLOR": "#efe3cb", "NODE_DEFAULT_COLOR": "#d8c49a",
            "NODE_TITLE_COLOR": "#3b2f22", "NODE_TEXT_COLOR": "#3b2f22",
            "WIDGET_BGCOLOR": "#f7f0e0", "WIDGET_TEXT_COLOR": "#3b2f22",
            "WIDGET_SECONDARY_TEXT_COLOR": "#6b5a45", "CLEAR_BACKGROUND_COLOR": "#e3d5b5",
        },
        "comfy_base": {
            "fg-color": "#3b2f22", "bg-color": "#e3d5b5", "comfy-menu-bg": "#f2e8d5",
            "comfy-input-bg": "oklch(0.82 0.05 85 / 60%)", "input-text": "#9c8356",
            "descrip-text": "#6b5a45", "border-color": "#b59f74",
        },
    },
}  # fmt: skip

OPEN = """async workflow => {
    await app.loadGraphData(workflow, true, true);
    return app.graph.nodes.map(n => [n.type, n.constructor?.comfyClass ?? n.type, n.has_errors]);
}"""
ADD = """([type, [x, y], links, values]) => {
    const node = LiteGraph.createNode(type);
    node.pos = [x, y];
    app.graph.add(node);
    for (const [input, from, output] of links) {
        const slot = node.inputs.findIndex(i => i.name === input);
        app.graph.getNodeById(from).connect(output, node, slot);
    }
    for (const [name, value] of Object.entries(values)) {
        const widget = node.widgets.find(w => w.name === name);
        widget.value = value;
        widget.callback?.(value);
    }
    return node.id;
}"""
SET = """([type, name, value]) => app.graph.nodes.filter(n => n.type === type).forEach(
    n => { n.widgets.find(w => w.name === name).value = value; })"""
IDLE = """async () => {
    const queue = await (await fetch('/api/queue')).json();
    return !queue.queue_running.length && !queue.queue_pending.length;
}"""
FIT = """async () => {
    const { ds } = app.canvas;
    await app.extensionManager.command.execute('Comfy.Canvas.FitView');
    for (let still = 0, before; still < 4;) {  // it glides there
        await new Promise(done => setTimeout(done, 100));
        const now = [ds.scale, ...ds.offset].join();
        still = now === before ? still + 1 : 0;
        before = now;
    }
}"""
SHOW = """async ([id, scale]) => {
    const { pos, size } = app.graph.getNodeById(id), { ds, canvas } = app.canvas;
    const [width, height] = [canvas.clientWidth, canvas.clientHeight];
    ds.scale = scale;
    ds.offset[0] = width / 2 / scale - pos[0] - size[0] / 2;
    ds.offset[1] = height / 2 / scale - pos[1] - size[1] / 2 + 20;
    app.canvas.setDirty(true, true);
    for (let frame = 0; frame < 4; frame++) await new Promise(requestAnimationFrame);
    await new Promise(done => setTimeout(done, 100));
}"""


class FrontEnd:
    """Attributes: page; server; complaints, what our scripts logged as errors."""

    def __init__(self, page: Page, server: ComfyServer):
        self.page, self.server, self.complaints = page, server, []
        page.on("console", self._note)
        page.on("pageerror", lambda error: self._blame(error.stack or str(error)))
        page.on("dialog", lambda dialog: dialog.accept())  # on leaving with unsaved changes
        known = {
            "Comfy.TutorialCompleted": True,  # else templates are shown, late on slow machines
            "Comfy.CustomColorPalettes": {SAND["id"]: SAND},
        }
        page.request.post(f"{server.address}/settings", data=known)
        page.goto(server.address)
        self.wait_until_ready()

    def wait_until_ready(self) -> None:
        ready = "window.app?.graph?.nodes && app.extensionManager"
        self.page.wait_for_function(ready, timeout=READY)
        self.page.wait_for_timeout(1000)

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

    def wear(self, renderer: str, theme: str) -> None:
        """Chooses "classic" or "vue", and a palette."""
        self.set("Comfy.VueNodes.Enabled", renderer == "vue")
        self.set("Comfy.ColorPalette", theme)

    def open(self, workflow: dict) -> list[tuple[str, str, bool]]:
        """Loads a workflow; (type, registered class, whether it is marked as faulty) a node."""
        return [tuple(node) for node in self.page.evaluate(OPEN, workflow)]

    def known(self) -> set[str]:
        """Every type that the front end can make."""
        return set(self.page.evaluate("Object.keys(LiteGraph.registered_node_types)"))

    def add(self, kind: str, at: tuple[int, int], links: list, **values: Any) -> int:
        """Adds a node with links [(input, id of the other node, its output)]; returns its id."""
        return self.page.evaluate(ADD, [kind, list(at), links, values])

    def fill(self, kind: str, **values: Any) -> None:
        """Sets widgets of all nodes of a type."""
        for name, value in values.items():
            self.page.evaluate(SET, [kind, name, value])

    def queue(self) -> None:
        self.page.evaluate("app.queuePrompt(0, 1)")

    def wait_until_idle(self) -> None:
        """Waits for the end of everything that was queued."""
        for _ in range(RUN // 300):
            self.page.wait_for_timeout(300)
            if self.page.evaluate(IDLE):
                break
        else:
            raise TimeoutError("The queue did not become empty.")
        self.page.wait_for_timeout(700)  # the last events

    def id_of(self, kind: str) -> int:
        """The first node of a type."""
        return self.page.evaluate("t => app.graph.nodes.find(n => n.type === t).id", kind)

    def show(self, node: int, scale: float = 1.0) -> None:
        """Brings a node to the middle of the page, and waits until it is drawn there."""
        self.page.evaluate(SHOW, [node, scale])

    def fit(self) -> None:
        """Shows the whole graph, as a template is when it is opened."""
        self.page.evaluate(FIT)

    def view(self, node: int) -> Locator:
        """The view inside a node."""
        find = """id => app.graph.getNodeById(id).widgets.find(w => w.element?.dataset.lora2View)
            .element"""
        name = f"node-{node}"
        self.page.evaluate(f"id => {{ ({find})(id).dataset.testid = 'node-' + id; }}", node)
        return self.page.locator(f"[data-testid={name}]")

    def data(self, node: int) -> dict[str, str]:
        """What a view says of itself: its data attributes."""
        return self.view(node).evaluate("e => ({...e.dataset})")

    def output(self, node: int) -> dict:
        """What the server sent for a node after its last run."""
        return self.page.evaluate("id => app.nodeOutputs[id]", str(node))


def workflow(name: str) -> dict:
    """An example workflow by its title."""
    return json.loads((WORKFLOWS / f"{name}.json").read_text(encoding="utf-8"))
