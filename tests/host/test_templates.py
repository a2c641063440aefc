"""The example workflows of flow models: what the host's definitions make of them, with files that
exist they pass its checks, and they run on small random models.
"""

import json

import folder_paths
import numpy as np
import pytest
import torch
from PIL import Image

from tests.host.templates import TEMPLATES, WIDGETS, WORKFLOWS, definitions, text_of, workflow
from tests.tiers import fast

FILES = {"unet_name", "clip_name", "vae_name", "folder"}  # lists of what a person has


@pytest.fixture(scope="module")
def kinds() -> dict:
    return definitions()


@pytest.mark.parametrize("name", TEMPLATES)
def test_a_template_is_what_the_definitions_make_of_it(name: str, kinds):
    """`python -m tests.hosting.inprocess tests.host.templates` writes it again."""
    assert (WORKFLOWS / f"{name}.json").read_text(encoding="utf-8") == text_of(
        workflow(name, kinds)
    )


@pytest.mark.parametrize("name", TEMPLATES)
def test_widgets_and_links_of_a_template_fit_the_definitions(name: str, kinds):
    """Values in the order of the inputs, in their ranges and lists, and links between outputs and
    inputs of one type.
    """
    graph = json.loads((WORKFLOWS / f"{name}.json").read_text(encoding="utf-8"))
    nodes = {node["id"]: node for node in graph["nodes"]}
    for node in nodes.values():
        if node["type"] not in kinds:
            continue  # notes, and nodes of the host's extras
        types = kinds[node["type"]].INPUT_TYPES()
        known = types.get("required", {}) | types.get("optional", {})
        names = [i["name"] for i in node["inputs"] if "widget" in i]
        values = dict(zip(names, node.get("widgets_values") or [], strict=False))
        assert {i["name"] for i in node["inputs"]} <= known.keys(), node["type"]
        for name, value in values.items():
            sort, options = known[name][0], (*known[name], {})[1]
            choices = sort if isinstance(sort, (list, tuple)) else options.get("options")
            if choices and name not in FILES and not str(value).endswith(".safetensors"):
                assert value in choices, (name, value)
            if sort in ("INT", "FLOAT"):
                assert options["min"] <= value <= options["max"], name
    for _, source, slot, target, place, sort in graph["links"]:
        assert nodes[source]["outputs"][slot]["type"] == sort or sort == "*"
        wanted = nodes[target]["inputs"][place]["type"]
        assert sort in (wanted, "*") or wanted == "*" or sort in wanted.split(",")


def inputs_of(node: dict, links: dict, results: dict) -> dict:
    """The values of a node's inputs: of its widgets, and over its links."""
    widgets, given = iter(node["widgets_values"]), {}
    for entry in node["inputs"]:
        if entry["type"] in WIDGETS and "widget" in entry:
            given[entry["name"]] = next(widgets)
        elif entry["link"] is not None:
            _, source, slot, *_ = links[entry["link"]]
            given[entry["name"]] = results[source][slot]
    return given


@pytest.mark.parametrize("name", fast(TEMPLATES))
def test_a_template_runs_on_small_random_models(name: str, kinds, tmp_path, monkeypatch):
    """Node by node, as the executor does, the loaders' files replaced by small models."""
    from tests.host.small import loaded

    for what in ("input", "output"):
        monkeypatch.setattr(folder_paths, f"get_{what}_directory", lambda w=what: tmp_path / w)
    monkeypatch.setattr(folder_paths, "get_user_directory", lambda: str(tmp_path / "user"))
    loras = [str(tmp_path / "loras")]
    monkeypatch.setitem(folder_paths.folder_names_and_paths, "loras", (loras, {".safetensors"}))
    graph = json.loads((WORKFLOWS / f"{name}.json").read_text(encoding="utf-8"))
    pictures = tmp_path / "input" / TEMPLATES[name].folder
    pictures.mkdir(parents=True)
    random = np.random.default_rng(0)
    for stem in ("a", "a_source") if "Edit" in name else ("a", "b"):
        Image.fromarray(random.integers(0, 255, (128, 128, 3), np.uint8)).save(
            pictures / f"{stem}.png"
        )
        (pictures / f"{stem}.txt").write_text("make it red", encoding="utf-8")
    links, results, small = {row[0]: row for row in graph["links"]}, {}, loaded(name)
    for node in graph["nodes"]:
        kind = node["type"]
        if kind in small:
            results[node["id"]] = [small[kind]]
            continue
        if kind not in kinds:
            continue
        given = inputs_of(node, links, results)
        if kind == "LoRA2Dataset":
            given |= {"resolution": 128}
        if kind == "LoRA2CheckpointOptions":
            given |= {"every": 0}
        if kind == "LoRA2Train":
            given = {k: v if k in ("latents", "positive") else [v] for k, v in given.items()}
            given |= {"steps": [2], "target_rank": [2], "max_rank": [4]}
        results[node["id"]] = list(kinds[kind].execute(**given).result)
    (file,) = (tmp_path / "loras").rglob("*.safetensors")
    train = next(n["id"] for n in graph["nodes"] if n["type"] == "LoRA2Train")
    assert file.stat().st_size > 1000
    lora = results[train][0]
    assert lora.layers and all(torch.isfinite(layer.up).all() for layer in lora.layers.values())
