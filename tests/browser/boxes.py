"""Where the nodes and groups of an open graph really are, as the renderer draws them."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import combinations
from typing import NamedTuple

from tests.browser.front_end import FrontEnd

SETTLED, TRIES = 400, 40  # milliseconds between two looks, which must be alike
NOTES = {"MarkdownNote", "Note"}  # belong to no group
# In Vue a node is all that hangs on its element: what the front end says of a missing file lies
# below it.
MEASURE = """() => {
    const { ds, canvas } = app.canvas, seen = canvas.getBoundingClientRect();
    const vue = LiteGraph.vueNodesMode;
    const element = n => vue && document.querySelector(`[data-node-id="${n.id}"]`);
    const drawn = e => {
        const { width, height } = e.getBoundingClientRect(), style = getComputedStyle(e);
        return width && height && style.visibility !== 'hidden' && style.opacity !== '0';
    };
    const nodes = app.graph.nodes.map(n => {
        const e = element(n);
        if (!e) {
            const box = new Float32Array(4);
            n.measure(box, canvas.getContext('2d'));
            return [n.id, n.type, ...box];
        }
        const clipped = '[data-lora2-view] *, textarea *, svg *, .widget-markdown *';
        const all = [e, ...e.querySelectorAll('*')].filter(d => !d.matches(clipped) && drawn(d));
        const edges = all.map(d => d.getBoundingClientRect());
        const [x, y] = [Math.min(...edges.map(r => r.left)), Math.min(...edges.map(r => r.top))];
        const right = Math.max(...edges.map(r => r.right));
        const bottom = Math.max(...edges.map(r => r.bottom));
        return [n.id, n.type, (x - seen.left) / ds.scale - ds.offset[0],
            (y - seen.top) / ds.scale - ds.offset[1], (right - x) / ds.scale,
            (bottom - y) / ds.scale];
    });
    return [nodes, app.graph.groups.map(g => [g.title, 'group', ...g._bounding])];
}"""


class Box(NamedTuple):
    """A node or group: id or title, type, and its rectangle in graph units, titles included."""

    name: int | str
    kind: str
    x: float
    y: float
    width: float
    height: float

    def meets(self, other: Box) -> bool:
        """Whether the two share any room."""
        across = min(self.x + self.width, other.x + other.width) - max(self.x, other.x)
        down = min(self.y + self.height, other.y + other.height) - max(self.y, other.y)
        return across > 0 and down > 0

    def holds(self, other: Box) -> bool:
        """Whether the other lies wholly inside."""
        right, bottom = self.x + self.width, self.y + self.height
        inside = other.x + other.width <= right and other.y + other.height <= bottom
        return self.x <= other.x and self.y <= other.y and inside


def boxes(front_end: FrontEnd) -> tuple[list[Box], list[Box]]:
    """Nodes and groups, once nothing moves any more."""
    before = None
    for _ in range(TRIES):
        measured = front_end.page.evaluate(MEASURE)
        if measured == before:
            return tuple([Box(*box) for box in kind] for kind in measured)
        before = measured
        front_end.page.wait_for_timeout(SETTLED)
    raise TimeoutError("The nodes did not come to rest.")


def disorder(front_end: FrontEnd) -> Iterator[str]:
    """A line for each two nodes that overlap, and each node that its group does not enclose."""
    nodes, groups = boxes(front_end)
    for a, b in combinations(nodes, 2):
        if a.meets(b):
            yield f"{a} lies on {b}"
    for node in nodes:
        met = [group for group in groups if group.meets(node)]
        wanted = 0 if node.kind in NOTES else 1
        if len(met) != wanted or not all(group.holds(node) for group in met):
            yield f"{node} is not inside one group: {met}"
