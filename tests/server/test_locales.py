"""Every node, input and output that the host knows of us is explained, in every language."""

import json

import pytest

from tests.hosting.server import ComfyServer
from tests.project.test_locales import LANGUAGES, ROOT

SOCKETS = {"MODEL", "CLIP", "VAE", "IMAGE"}  # outputs that say what they are


def inputs_of(node: dict) -> dict[str, dict]:
    """name -> options."""
    both = {**node["input"].get("required", {}), **node["input"].get("optional", {})}
    return {name: spec[1] if len(spec) > 1 else {} for name, spec in both.items()}


@pytest.fixture(scope="module")
def ours(server: ComfyServer) -> dict[str, dict]:
    return {k: v for k, v in server.object_info().items() if k.startswith("LoRA2")}


def test_every_input_has_a_tooltip_and_every_node_can_be_found(ours: dict[str, dict]) -> None:
    for kind, node in ours.items():
        assert node["description"] and node["search_aliases"], kind
        for name, options in inputs_of(node).items():
            assert options.get("tooltip"), f"{kind}: {name} has no tooltip"


@pytest.mark.parametrize("language", LANGUAGES)
def test_every_node_is_translated(
    ours: dict[str, dict], server: ComfyServer, language: str
) -> None:
    path = ROOT / "locales" / language / "nodeDefs.json"
    ask = f"translate it in {path.relative_to(ROOT)}"
    translated = server._ask("/i18n")[language]["nodeDefs"]
    assert translated == json.loads(path.read_text(encoding="utf-8")), "the host serves our file"
    assert translated.keys() == ours.keys(), ask
    for kind, node in ours.items():
        entry = translated[kind]
        assert entry["display_name"] and entry["description"], f"{kind}: {ask}"
        inputs = entry.get("inputs", {})
        assert inputs.keys() == inputs_of(node).keys(), f"{kind}: {ask}"
        assert all(i["name"] and i["tooltip"] for i in inputs.values()), f"{kind}: {ask}"
        assert entry["outputs"].keys() == {str(i) for i in range(len(node["output"]))}, kind
