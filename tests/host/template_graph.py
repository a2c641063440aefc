"""Workflows in the front end's own form, made from the definitions of their nodes."""

from __future__ import annotations

import asyncio
import importlib
import json

HUB = "https://huggingface.co/Comfy-Org"
WIDGETS = {"INT", "FLOAT", "STRING", "BOOLEAN", "COMBO", "COMFY_DYNAMICCOMBO_V3"}
# modules of the host's extras whose nodes a template may have
EXTRAS = ("nodes_textgen", "nodes_dataset", "nodes_post_processing")
WIDE, NARROW, HIGH = 440, 340, 1200


def definitions() -> dict:
    """Returns every node that a template may have, by its id."""
    import comfyui_lora2

    import nodes

    entries = [importlib.import_module(f"comfy_extras.{name}").comfy_entrypoint for name in EXTRAS]
    known = dict(nodes.NODE_CLASS_MAPPINGS)
    for entry in (*entries, comfyui_lora2.comfy_entrypoint):
        extension = asyncio.run(entry())
        known |= {n.GET_SCHEMA().node_id: n for n in asyncio.run(extension.get_node_list())}
    return known


def fields(kind: type) -> list[tuple[str, str, object, bool]]:
    """Returns (name, type, default, optional) of each input of a node, sockets first."""
    types, found = kind.INPUT_TYPES(), []
    for part in ("required", "optional"):
        for name, entry in types.get(part, {}).items():
            options = entry[1] if len(entry) > 1 else {}
            sort = "COMBO" if isinstance(entry[0], (list, tuple)) else entry[0]
            if options.get("forceInput"):
                sort = f"{sort} "
            first = entry[0][0] if isinstance(entry[0], (list, tuple)) and entry[0] else None
            combo = (options.get("options") or [None])[0]
            found.append((name, sort, options.get("default", first or combo), part == "optional"))
    return sorted(found, key=lambda f: f[1] in WIDGETS)


class Graph:
    """Nodes and links of a workflow, in the front end's own form."""

    def __init__(self, kinds: dict):
        self.kinds, self.nodes, self.links = kinds, [], []

    def add(self, kind: str, place: tuple, size: tuple, values: dict, files: list = ()) -> int:
        """Adds a node; values: of its widgets, and (node, slot) of its sockets."""
        number, inputs, widgets = len(self.nodes) + 1, [], []
        for name, sort, default, optional in fields(self.kinds[kind]):
            entry = {"localized_name": name, "name": name, "type": sort.strip(), "link": None}
            if optional:
                entry["shape"] = 7
            if sort in WIDGETS:
                entry["widget"] = {"name": name}
                widgets.append(values.get(name, default))
            elif name in values:
                entry["link"] = self.connect(values[name], number, len(inputs), sort.strip())
            inputs.append(entry)
        outputs = [
            {"localized_name": name, "name": name, "type": sort, "links": []}
            for name, sort in zip(self.names(kind), self.kinds[kind].RETURN_TYPES, strict=True)
        ]
        core = not kind.startswith("LoRA2")
        properties = {
            "Node name for S&R": kind,
            "cnr_id": "comfy-core" if core else "comfyui-lora2",
        }
        if files:
            properties["models"] = [
                {"name": name, "url": f"{HUB}/{where}/{name}", "directory": directory}
                for (name, where), directory in files
            ]
        self.nodes.append({
            "id": number, "type": kind, "pos": list(place), "size": list(size), "flags": {},
            "order": number - 1, "mode": 0, "inputs": inputs, "outputs": outputs,
            "properties": properties, "widgets_values": widgets,
        })  # fmt: skip
        return number

    def names(self, kind: str) -> list[str]:
        made = getattr(self.kinds[kind], "RETURN_NAMES", None)
        return list(made or self.kinds[kind].RETURN_TYPES)

    def connect(self, source: tuple, target: int, slot: int, sort: str) -> int:
        number = len(self.links) + 1
        self.links.append([number, *source, target, slot, sort])
        self.nodes[source[0] - 1]["outputs"][source[1]]["links"].append(number)
        return number

    def note(self, text: str) -> None:
        self.nodes.append({
            "id": 1, "type": "MarkdownNote", "pos": [-440, 0], "size": [400, 640], "flags": {},
            "order": 0, "mode": 0, "inputs": [], "outputs": [], "title": "Read me",
            "properties": {}, "widgets_values": [text], "color": "#432", "bgcolor": "#653",
        })  # fmt: skip

    def workflow(self, groups: list[tuple[str, str, int, int]]) -> dict:
        """Returns the graph as the front end saves it. groups: title, colour, left edge, width."""
        boxes = [
            {"id": i, "title": title, "bounding": [x - 20, -80, wide + 40, HIGH], "color": colour,
             "flags": {}}
            for i, (title, colour, x, wide) in enumerate(groups, 1)
        ]  # fmt: skip
        return {
            "id": "00000000-0000-0000-0000-000000000000", "revision": 0,
            "last_node_id": len(self.nodes), "last_link_id": len(self.links), "nodes": self.nodes,
            "links": self.links, "groups": boxes, "config": {},
            "extra": {"ds": {"scale": 0.62, "offset": [560, 240]}}, "version": 0.4,
        }  # fmt: skip


def text_of(graph: dict) -> str:
    return json.dumps(graph, indent=1, ensure_ascii=False) + "\n"
