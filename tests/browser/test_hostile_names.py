"""What files say of themselves is shown as text, never taken for markup, in every view."""

import json
from pathlib import Path

import pytest
import safetensors.torch
from safetensors import safe_open

from lora2_core.adapter.layout import as_json
from lora2_core.files.seal import EMPTY, KEY, sealed
from tests.browser.front_end import QUICK_START, RUN, FrontEnd, workflow

HOSTILE = "<img src=x onerror=window.hurt=1>"
SCRIPT = "</textarea><script>window.hurt=2</script>{{window.hurt=3}}<svg onload=window.hurt=4>"


def train(front_end: FrontEnd, folder: Path) -> Path:
    """A tiny adapter of the playground as a file."""
    front_end.open(workflow(QUICK_START))
    front_end.fill("LoRA2Train", steps=2, target_rank=2, layers="attention")
    front_end.fill("LoRA2Save", filename_prefix="hostile/plain")
    front_end.fill("KSampler", steps=1)
    front_end.queue()
    front_end.wait_until_idle()
    return max((folder / "hostile").glob("plain*.safetensors"))


def disguise(path: Path) -> str:
    """A copy with a hostile name and metadata, in the same folder; its name for the loaders."""
    with safe_open(path, "pt") as file:
        metadata = dict(file.metadata())
    for key in ("modelspec.title", "modelspec.trigger_phrase", "ss_output_name"):
        metadata[key] = SCRIPT
    metadata["ss_base_model_version"] = HOSTILE
    metadata["ss_tag_frequency"] = json.dumps({"x": {HOSTILE: 3}})
    copy = path.with_name(f"{HOSTILE}.safetensors")
    metadata[KEY] = EMPTY
    copy.write_bytes(sealed(safetensors.torch.save(safetensors.torch.load_file(path), metadata)))
    return f"hostile/{copy.name}"


@pytest.mark.parametrize("name", [HOSTILE, SCRIPT, "=1+1", 'a"b,c'])
def test_layers_and_notes_of_any_name_are_text(page_of_look: FrontEnd, name: str) -> None:
    """Straight to the views: no loader would let such layers in. Before a run, since a page shows
    no output of another workflow than the one that ran.
    """
    front_end = page_of_look
    layer = {"name": name, "row": name, "column": name, "rank": 1, "max_rank": 2, "norm": 1}
    shown = as_json([name], [name], [layer | {"bytes": 4}])
    front_end.page.evaluate("app.graph.clear()")
    heatmap = front_end.add("LoRA2RankHeatmap", (0, 0), [])
    show = "([id, key, value]) => app.graph.getNodeById(id).onExecuted({ [key]: [value] })"
    front_end.page.evaluate(show, [heatmap, "lora2_rank_map", shown])
    front_end.show(heatmap)
    front_end.view(heatmap).locator("rect.cell").hover()
    assert name in front_end.view(heatmap).text_content()
    save = front_end.add("LoRA2Save", (600, 0), [])
    front_end.page.evaluate(show, [save, "text", name])
    assert front_end.view(save).text_content() == name
    assert front_end.page.evaluate("window.hurt === undefined")
    with front_end.page.expect_download() as download:
        front_end.view(heatmap).get_by_role("button", name="CSV").click()
    table = download.value.path().read_text(encoding="utf-8-sig")
    quoted = name.replace('"', '""')
    assert f'''"{"'" if name[0] == "=" else ""}{quoted}"''' in table


def test_names_and_metadata_are_text(
    page_of_look: FrontEnd,
) -> None:
    page = page_of_look.page
    name = disguise(train(page_of_look, page_of_look.server.base / "models" / "loras"))
    page.evaluate("app.refreshComboInNodes()")
    model = [("model", page_of_look.id_of("LoRA2Playground"), 0)]
    load = page_of_look.add("LoRA2Load", (0, 1200), model, lora_name=name)
    adapter = [("lora2", load, 2)]
    heatmap = page_of_look.add("LoRA2RankHeatmap", (500, 1200), adapter)
    info = page_of_look.add("LoRA2Info", (1100, 1200), [], lora_name=name)
    page_of_look.queue()
    page_of_look.wait_until_idle()
    report = page_of_look.view(info)
    report.get_by_text(HOSTILE).first.wait_for(timeout=RUN)
    text = report.text_content()
    assert name in text and f"base {HOSTILE}" in text and SCRIPT[:150] in text
    assert page_of_look.data(heatmap)["layers"] == "56"
    assert page_of_look.data(load)["keep"] == "1"
    for node in (load, heatmap, info):
        page_of_look.show(node)
        inside = page_of_look.view(node).locator("img, script, [onload], [onerror]")
        assert inside.count() == 0
    assert page.evaluate("window.hurt === undefined")
    assert page_of_look.complaints == []
