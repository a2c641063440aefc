"""LoRA² Dataset in the real front end: its report appears in the node, as plain text."""

from pathlib import Path

from PIL import Image

from tests.browser.front_end import RUN, FrontEnd
from tests.browser.looks import FULL, Look

NEWEST_TOO = True  # Vue hands a dropped file over in another way
HOSTILE = "<img src=x onerror=window.hurt=1>.png"
DROP = """async ([view, names]) => {
    const carried = new DataTransfer();
    const pixels = document.createElement('canvas');
    pixels.width = pixels.height = 32;
    for (const name of names) {
        const picture = await new Promise(made => pixels.toBlob(made));
        carried.items.add(new File([name.endsWith('.png') ? picture : 'an owl'], name));
    }
    const node = app.graph.nodes.find(n => n.type === 'LoRA2Dataset');
    const event = new DragEvent('drop', { dataTransfer: carried, bubbles: true, cancelable: true });
    if (!view) return node.onDragOver(event) && node.onDragDrop(event);
    return !document.querySelector('[data-lora2-view=report]').dispatchEvent(event);
}"""
BUILD = """async seed => {
    app.graph.clear();
    const add = (type, x) => {
        const node = LiteGraph.createNode(type);
        node.pos = [x, 200];
        app.graph.add(node);
        return node;
    };
    const model = add('LoRA2Playground', 300);
    const dataset = add('LoRA2Dataset', 700);
    model.connect(1, dataset, dataset.findInputSlot('clip'));
    model.connect(2, dataset, dataset.findInputSlot('vae'));
    const set = { folder: 'seen', caption: 'owl', resolution: 32, seed };
    for (const [name, value] of Object.entries(set))
        dataset.widgets.find(w => w.name === name).value = value;
    await app.queuePrompt(0, 1);
}"""


def test_the_report_is_shown_in_the_node(page_of_look: FrontEnd, look: Look) -> None:
    front_end = page_of_look
    folder: Path = front_end.server.base / "input" / "seen"
    folder.mkdir(exist_ok=True)
    Image.new("RGB", (32, 32), "red").save(folder / "a.png")
    (folder / HOSTILE).write_bytes(b"")
    seed = FULL.index(look)  # another one: nothing is cached
    front_end.page.evaluate(BUILD, seed)
    view = front_end.page.locator("[data-lora2-view=report]")
    view.get_by_text("seen: pictures 1, entries 1").wait_for(state="visible", timeout=RUN)
    assert f"skipped: 1\n  {HOSTILE}: empty\n" in view.text_content()
    assert front_end.page.evaluate("window.hurt === undefined")
    assert view.evaluate("e => e.getBoundingClientRect().height > 60")
    told = view.locator("[role=status]")
    for names, said in (
        (
            ["b.png", "b.TXT", "a.exe"],
            "2 added to seen; not added: a.exe (no picture or caption)",
        ),
        (["b.TXT", "c.jpg"], "2 added to seen"),  # the same file again, and one that is no picture
    ):
        assert front_end.page.evaluate(DROP, [look.renderer == "vue", names])
        told.get_by_text(said, exact=True).wait_for(state="visible", timeout=RUN)
    with front_end.page.expect_file_chooser() as chooser:
        view.get_by_role("button", name="Add pictures").evaluate("e => e.click()")
    chooser.value.set_files([{"name": "b.txt", "mimeType": "text/plain", "buffer": b"another"}])
    told.get_by_text("1 added to seen").wait_for(state="visible", timeout=RUN)
    assert (folder / "b.TXT").read_text() == "an owl" and (folder / "b.png").stat().st_size > 60
    assert not (folder / "a.exe").exists() and (folder / "b.txt").read_text() == "another"
    value = "() => app.graph.nodes.find(n => n.type === 'LoRA2Dataset').widgets[0].value"
    assert front_end.page.evaluate(value) == "seen"
    for name in ("b.TXT", "b.png", "b.txt", "c.jpg"):
        (folder / name).unlink()
    assert front_end.complaints == []
