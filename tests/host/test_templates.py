"""The example workflows of flow models: what the host's definitions make of them, with files that
exist they pass its checks, and they run on small random models.
"""

import json

import folder_paths
import numpy as np
import pytest
import torch
from PIL import Image

from lora2_core import LoraLayer, RankedLora, save
from lora2_core.layers.targets import TargetSettings
from tests.host.captioning import ASKED
from tests.host.captioning import NAME as CAPTIONED
from tests.host.template_graph import WIDGETS, definitions, text_of
from tests.host.templates import NAMES, TEMPLATES, WORKFLOWS, workflow
from tests.tiers import fast

FILES = {"unet_name", "clip_name", "vae_name", "folder", "lora_name"}  # lists of what a person has


@pytest.fixture(scope="module")
def kinds() -> dict:
    return definitions()


@pytest.mark.parametrize("name", NAMES)
def test_a_template_is_what_the_definitions_make_of_it(name: str, kinds):
    """`python -m tests.hosting.inprocess tests.host.templates` writes it again."""
    assert (WORKFLOWS / f"{name}.json").read_text(encoding="utf-8") == text_of(
        workflow(name, kinds)
    )


@pytest.mark.parametrize("name", NAMES)
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
            if sort == "COMFY_DYNAMICCOMBO_V3":
                choices = [choice["key"] for choice in choices]
            if choices and name not in FILES and not str(value).endswith(".safetensors"):
                assert value in choices, (name, value)
            if sort in ("INT", "FLOAT"):
                assert options["min"] <= value <= options["max"], name
    for _, source, slot, target, place, sort in graph["links"]:
        assert nodes[source]["outputs"][slot]["type"] == sort or sort == "*"
        wanted = nodes[target]["inputs"][place]["type"]
        assert sort in (wanted, "*") or wanted == "*" or sort in wanted.split(",")


def inputs_of(node: dict, links: dict, results: dict) -> dict[str, list]:
    """The values of a node's inputs, each a list: of its widgets, and over its links."""
    widgets, given = iter(node["widgets_values"]), {}
    for entry in node["inputs"]:
        if entry["type"] in WIDGETS and "widget" in entry:
            value = next(widgets)
            dynamic = entry["type"] == "COMFY_DYNAMICCOMBO_V3"
            given[entry["name"]] = [{entry["name"]: value} if dynamic else value]
        elif entry["link"] is not None:
            _, source, slot, *_ = links[entry["link"]]
            given[entry["name"]] = results[source][slot]
    return given


def executed(kind: type, given: dict[str, list]) -> list[list]:
    """What a node gives, each output a list, by the executor's rules: it gets lists if it says so,
    else it runs once for each item, and the last item of a shorter list is repeated.
    """
    if kind.INPUT_IS_LIST:
        runs = [given]
    else:
        turns = range(max(len(values) for values in given.values()))
        runs = [{k: v[min(i, len(v) - 1)] for k, v in given.items()} for i in turns]
    outputs = [kind.execute(**run).result or () for run in runs]
    return [
        [item for result in outputs for item in (result[i] if listed else [result[i]])]
        for i, listed in enumerate(kind.OUTPUT_IS_LIST or ())
    ]


@pytest.fixture
def folders(tmp_path, monkeypatch):
    """The host's folders, below tmp_path."""
    for what in ("input", "output"):
        monkeypatch.setattr(folder_paths, f"get_{what}_directory", lambda w=what: tmp_path / w)
    monkeypatch.setattr(folder_paths, "get_user_directory", lambda: str(tmp_path / "user"))
    loras = [str(tmp_path / "loras")]
    monkeypatch.setitem(folder_paths.folder_names_and_paths, "loras", (loras, {".safetensors"}))
    return tmp_path


def pictures(folder, names: tuple[str, ...], caption: str | None) -> None:
    folder.mkdir(parents=True)
    random = np.random.default_rng(0)
    for name in names:
        image = random.integers(0, 255, (128, 128, 3), np.uint8)
        Image.fromarray(image).save(folder / f"{name}.png")
        if caption:
            (folder / f"{name}.txt").write_text(caption, encoding="utf-8")


def large(path, name: str) -> None:
    """A LoRA of the attention layers of a template's model."""
    from tests.host.small import loaded

    model = loaded(name)["UNETLoader"].model
    layers = {}
    for number, (layer, module) in enumerate(TargetSettings("attention").chosen(model).items()):
        generator = torch.Generator().manual_seed(number)
        rows, columns = module.weight.shape
        pair = (torch.randn(side, generator=generator) for side in ((rows, 8), (8, columns)))
        layers[layer] = LoraLayer(*pair)
    path.parent.mkdir(parents=True)
    save(path, RankedLora(layers), form="comfy")


# what is smaller in a test, by node
SMALL = {
    "LoRA2Dataset": {"resolution": 128},
    "LoRA2CheckpointOptions": {"every": 0},
    "LoRA2Train": {"steps": 2, "target_rank": 2, "max_rank": 4},
    "LoRA2Compress": {"lora_name": "large.safetensors", "budget_mb": 0.01},
    "ImageScaleToTotalPixels": {"megapixels": 128**2 / 1024**2},
    "TextGenerate": {"max_length": 6},
}


def run(name: str, kinds: dict) -> tuple[dict, dict]:
    """Runs a template node by node on small random models; its nodes by type, and results by id."""
    from tests.host.small import loaded

    graph = json.loads((WORKFLOWS / f"{name}.json").read_text(encoding="utf-8"))
    links, results, small = {row[0]: row for row in graph["links"]}, {}, loaded(name)
    for node in graph["nodes"]:
        kind = node["type"]
        if kind in small:
            results[node["id"]] = [[small[kind]]]
        elif kind in kinds:
            changed = {key: [value] for key, value in SMALL.get(kind, {}).items()}
            given = inputs_of(node, links, results) | changed
            results[node["id"]] = executed(kinds[kind], given)
    return {node["type"]: node for node in graph["nodes"]}, results


@pytest.mark.parametrize("name", fast(NAMES))
def test_a_template_runs_on_small_random_models(name: str, kinds, folders):
    """Node by node, as the executor does, the loaders' files replaced by small models."""
    source = TEMPLATES["LoRA2 Krea 2 style" if name == CAPTIONED else name].folder
    names = ("a", "a_source") if "Edit" in name else ("a", "b")
    pictures(folders / "input" / source, names, None if name == CAPTIONED else "make it red")
    if name in TEMPLATES and TEMPLATES[name].cut:
        large(folders / "loras" / "large.safetensors", name)
    nodes, results = run(name, kinds)
    (file,) = (folders / "loras").rglob("lora2/*.safetensors")
    assert file.stat().st_size > 1000
    (lora,) = results[nodes["LoRA2Train"]["id"]][0]
    if "LoRA2Compress" in nodes:
        assert lora.layers.keys() >= results[nodes["LoRA2Compress"]["id"]][0][0].layers.keys()
    assert lora.layers and all(torch.isfinite(layer.up).all() for layer in lora.layers.values())


def test_captions_of_a_model_are_saved_and_trained_on(kinds, folders, monkeypatch):
    """The encoder is asked about each picture, what it writes lies beside the picture as a file,
    and is what the training gets.
    """
    import comfy.sd

    asked, encoded = [], []
    tokenize = comfy.sd.CLIP.tokenize

    def noted(clip, text, **options):
        (asked if "image" in options else encoded).append((text, options.get("image")))
        return tokenize(clip, text, **options)

    monkeypatch.setattr(comfy.sd.CLIP, "tokenize", noted)
    pictures(folders / "input" / "my_style", ("a", "b"), None)
    nodes, results = run(CAPTIONED, kinds)
    (texts,) = results[nodes["TextGenerate"]["id"]]
    assert [text for text, _ in asked] == [ASKED] * 2 and len(texts) == 2
    assert not torch.equal(asked[0][1], asked[1][1]), "each picture"
    saved = sorted((folders / "output" / "my_style").iterdir())
    assert [path.suffix for path in saved] == [".png", ".txt"] * 2
    assert [path.read_text(encoding="utf-8") for path in saved[1::2]] == texts
    assert [text for text, _ in encoded][:2] == texts
