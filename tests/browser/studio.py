"""A page of the front end that shows nothing but the graph, and pictures of it."""

from __future__ import annotations

import io
from pathlib import Path

from PIL import Image
from playwright.sync_api import Browser

from tests.browser.front_end import FrontEnd
from tests.hosting.server import REPOSITORY, ComfyServer

WINDOW = {"width": 2000, "height": 1300}
SMALL = {"width": 320, "height": 240}  # while a run needs the processors
DENSITY = 2  # pixels of a picture for one of the page
TITLE, PAD = 30, 14  # of a node, in graph units
WIDEST = 2400  # pixels
COLOURS = 256  # of a picture's palette: half the size, and no difference to be seen
PLAIN = {
    "Comfy.Minimap.Visible": False,
    "Comfy.Graph.CanvasInfo": False,
    "Comfy.NodeBadge.NodeSourceBadgeMode": "None",
    "Comfy.ColorPalette": "dark",
    "Comfy.Workflow.ShowMissingModelsWarning": False,
    "Comfy.VueNodes.Enabled": True,
}
PLACE = """([ids, links]) => {
    const { ds } = app.canvas;
    app.canvas.links_render_mode = links ? LiteGraph.SPLINE_LINK : LiteGraph.HIDDEN_LINK;
    app.canvas.deselectAll?.();
    const nodes = ids.map(id => app.graph.getNodeById(id));
    const left = Math.min(...nodes.map(n => n.pos[0]));
    const top = Math.min(...nodes.map(n => n.pos[1]));
    ds.offset[0] = -left + 70 / ds.scale;
    ds.offset[1] = -top + 90 / ds.scale;
    app.canvas.setDirty(true, true);
}"""
ALONE = """([id, size]) => {
    const node = app.graph.getNodeById(id);
    node.pos = [40000 + 3000 * id, 40000];
    if (size) node.setSize(size);
}"""
BOX = """ids => {
    const { ds, canvas } = app.canvas, seen = canvas.getBoundingClientRect();
    const edges = ids.map(id => {
        const { pos, size } = app.graph.getNodeById(id);
        const element = document.querySelector(`[data-node-id="${id}"]`);
        const high = element ? element.getBoundingClientRect().height / ds.scale - 30 : size[1];
        return [pos[0], pos[1] - 30, pos[0] + size[0], pos[1] + high];
    });
    const at = (i, f) => f(...edges.map(e => e[i]));
    const [x, y] = [at(0, Math.min) + ds.offset[0], at(1, Math.min) + ds.offset[1]];
    return {
        x: seen.left + x * ds.scale, y: seen.top + y * ds.scale,
        width: (at(2, Math.max) - at(0, Math.min)) * ds.scale,
        height: (at(3, Math.max) - at(1, Math.min)) * ds.scale,
    };
}"""


class Studio(FrontEnd):
    """A page without anything but the graph."""

    def tidy(self) -> None:
        for setting, value in PLAIN.items():
            self.set(setting, value)
        if not self.page.evaluate("app.extensionManager.focusMode"):
            self.page.evaluate("app.extensionManager.toggleFocusMode()")
        hide = ".p-toast, .selection-toolbox, [data-testid=graph-canvas-menu] { display: none }"
        self.page.add_style_tag(content=hide)

    def wait_until_idle(self) -> None:
        self.page.set_viewport_size(SMALL)
        super().wait_until_idle()
        self.page.set_viewport_size(WINDOW)
        self.page.wait_for_timeout(500)

    def place(self, *nodes: int, scale: float = 1.0, links: bool = False) -> None:
        """Brings nodes into the page's upper left corner."""
        self.page.evaluate("s => { app.canvas.ds.scale = s }", scale)
        self.page.evaluate(PLACE, [list(nodes), links])
        self.page.wait_for_timeout(900)

    def alone(self, node: int, size: tuple[int, int] | None = None) -> None:
        """Moves a node away from all others."""
        self.page.evaluate(ALONE, [node, size and list(size)])
        self.page.wait_for_timeout(300)

    def shoot(self, path: Path, *nodes: int, scale: float = 1.0, links: bool = False) -> None:
        """A picture of nodes and what is around them; with links, also of the groups' titles."""
        self.place(*nodes, scale=scale, links=links)
        box = self.page.evaluate(BOX, list(nodes))
        top = PAD + TITLE * links
        clip = {
            "x": box["x"] - PAD, "y": box["y"] - top,
            "width": box["width"] + 2 * PAD, "height": box["height"] + top + PAD,
        }  # fmt: skip
        store(self.page.screenshot(clip=clip), path)


def store(data: bytes, path: Path) -> None:
    """Writes a PNG of few colours."""
    path.parent.mkdir(exist_ok=True)
    picture = Image.open(io.BytesIO(data)).convert("RGB")
    if picture.width > WIDEST:
        size = (WIDEST, round(picture.height * WIDEST / picture.width))
        picture = picture.resize(size, Image.Resampling.LANCZOS)
    small = picture.quantize(COLOURS, kmeans=3, dither=Image.Dither.NONE)
    small.save(path, optimize=True)
    print(f"{path.relative_to(REPOSITORY)}: {picture.width} x {picture.height}", flush=True)


def open_studio(browser: Browser, server: ComfyServer) -> Studio:
    page = browser.new_page(viewport=WINDOW, device_scale_factor=DENSITY)
    studio = Studio(page, server)
    studio.tidy()
    return studio
