"""`nox -s screenshots`: the pictures of the README, help pages and most examples, from real runs
in a real browser; `-- examples` for those alone, `-- untrained` for the help pages whose
pictures need no training (a minute). Look at them before committing them.
"""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

from PIL import Image
from playwright.sync_api import sync_playwright

from tests.browser import cards
from tests.browser.front_end import QUICK_START, RUN, WORKFLOWS, FrontEnd, workflow
from tests.browser.studio import Studio, open_studio
from tests.demo_report import side_by_side
from tests.hosting.browser import find_or_install_chromium, launch_args
from tests.hosting.provision import cache_folder
from tests.hosting.server import REPOSITORY, ComfyServer
from tests.protocol.encoders import toy_encoders

DOCS, HELP = REPOSITORY / "docs", REPOSITORY / "web" / "docs" / "pictures"
JUDGES = ("LoRA2Evaluate", "LoRA2Compare")
# nodes that show all they have without a training, beside those for options
UNTRAINED = ("LoRA2Dataset", "LoRA2Layers", "LoRA2Playground", "LoRA2ExamplePictures")
CUTS = (0.08, 0.04, 0.02)  # MB, of an adapter of 0.17 MB
PROMPT = "owl, noto style, blue background"  # of the quick start
SIZES = {"LoRA2Compare": (760, 430), "LoRA2Report": (560, 640)}  # of what would be small print


def pictures_folder(base: Path) -> None:
    """Some pictures for LoRA² Dataset, all but one with captions."""
    from lora2_core.playground import subjects

    folder = base / "input" / "owl"
    folder.mkdir(parents=True)
    for i, (image, caption) in enumerate(zip(*subjects.examples("owl", 8), strict=True)):
        Image.fromarray((image * 255).byte().numpy()).save(folder / f"{i}.png")
        if i != 1:
            (folder / f"{i}.txt").write_text(caption)


def add_all(page: FrontEnd) -> dict[str, int]:
    """One node of every kind, connected so that it has something to show; ids by kind."""
    model, train = map(page.id_of, ("LoRA2Playground", "LoRA2Train"))
    kinds = [k for k in sorted(page.known()) if k.startswith("LoRA2") and k not in JUDGES]
    ids = {
        k: page.page.evaluate("t => app.graph.nodes.find(n => n.type === t)?.id", k) for k in kinds
    }
    on_model, adapter = ("model", model, 0), ("lora2", train, 0)
    links = {
        "LoRA2Apply": [on_model, adapter],
        "LoRA2Compress": [("lora", train, 1)],
        "LoRA2Merge": [("loras.lora_1", train, 0), ("loras.lora_2", train, 1)],
        "LoRA2Extract": [("model", model, 0), ("base", model, 0)],
        "LoRA2Info": [adapter],
        "LoRA2Report": [adapter],
        "LoRA2Dataset": [("clip", model, 1), ("vae", model, 2)],
        "LoRA2Layers": [on_model],
        "LoRA2Load": [on_model],
    }
    values = {
        "LoRA2Apply": {"keep": 0.35},
        "LoRA2Load": {"keep": 0.35},
        "LoRA2Compress": {"budget_mb": 0.08},
        "LoRA2Merge": {"weights": "1, -0.5", "budget_mb": 0.08},
        "LoRA2Dataset": {"folder": "owl", "resolution": 32, "caption": "owl"},
        "LoRA2Layers": {"layers": "attention"},  # a short table
    }
    for i, kind in enumerate(k for k in kinds if ids[k] is None):
        at = (5000 + i % 4 * 1200, i // 4 * 1200)
        ids[kind] = page.add(kind, at, links.get(kind, []), **values.get(kind, {}))
    judged(page, ids)
    pair = [adapter, ("compare", ids["LoRA2Compress"], 0)]
    ids["pair"] = page.add("LoRA2RankHeatmap", (5000, 6000), pair)
    return ids


def judged(page: FrontEnd, ids: dict) -> None:
    """Samples before, after, and of cut adapters go through LoRA² Evaluate to LoRA² Compare."""
    decoders = "app.graph.nodes.filter(n => n.type === 'VAEDecode')"
    before, after = page.page.evaluate(
        f"{decoders}.sort((a, b) => a.pos[1] - b.pos[1]).map(n => n.id)"
    )
    model, train = map(page.id_of, ("LoRA2Playground", "LoRA2Train"))
    drawn = [("no adapter", before, None), ("the whole adapter", after, train)]
    for i, mb in enumerate(CUTS):
        at = (5000, 10000 + 1200 * i)
        cut = page.add("LoRA2Compress", at, [("lora", train, 1)], budget_mb=mb)
        applied = page.add("LoRA2Apply", at, [("model", model, 0), ("lora2", cut, 0)])
        drawn.append((f"cut to {mb} MB", sample(page, applied, 0, at), cut))
    real = ("references", page.id_of("LoRA2ExamplePictures"), 0)
    values = {"prompts": PROMPT, "clip_folder": "toy-clip", "dino_folder": "toy-dino"}
    last = None
    for name, pictures, adapter in drawn:
        links = [("images", pictures, 0), real]
        links += [("lora2", adapter, 0)] if adapter else []
        links += [("scores", last, 0)] if last else []
        last = page.add("LoRA2Evaluate", (5000, 7000), links, name=name, **values)
        if adapter == train:
            ids["LoRA2Evaluate"] = last
    ids["LoRA2Compare"] = page.add("LoRA2Compare", (6200, 7000), [("scores", last, 0)])


def sample(page: FrontEnd, node: int, output: int, at: tuple[int, int], steps: int = 20) -> int:
    """Connects a model output to something that asks for it; returns the node with the pictures."""
    links = page.page.evaluate(
        """() => { const n = app.graph.nodes.find(n => n.type === 'KSampler');
        return n.inputs.filter(i => i.link != null && i.name !== 'model').map(i => {
            const link = app.graph.getLink?.(i.link) ?? app.graph.links[i.link];
            return [i.name, link.origin_id, link.origin_slot]; }); }"""
    )
    values = {"steps": steps, "seed": 0, "cfg": 4}  # those of the quick start
    sampler = page.add("KSampler", at, [["model", node, output], *links], **values)
    vae = page.id_of("LoRA2Playground")
    decoder = page.add(
        "VAEDecode", (at[0] + 400, at[1]), [["samples", sampler, 0], ["vae", vae, 2]]
    )
    page.add("PreviewImage", (at[0] + 800, at[1]), [["images", decoder, 0]])
    return decoder


def readme(page: Studio, server: ComfyServer) -> None:
    """The quick start after its run."""
    page.open(workflow(QUICK_START))
    heatmap = page.id_of("LoRA2RankHeatmap")
    page.queue()
    page.wait_until_idle()
    nodes = page.page.evaluate("app.graph.nodes.map(n => n.id)")
    page.shoot(DOCS / "quick_start.png", *nodes, scale=0.66, links=True)
    before, after = samples(page, server)
    side_by_side(before, after, DOCS / "before_after.png")
    page.page.mouse.move(2, 2)
    page.alone(heatmap, (640, 500))
    page.place(heatmap, scale=1.2)
    page.view(heatmap).locator("rect.cell").nth(26).hover()
    page.shoot(DOCS / "heatmap.png", heatmap, scale=1.2)
    page.page.mouse.move(2, 2)


def midway(page: Studio) -> None:
    """The quick start in the middle of another run."""
    page.open(workflow(QUICK_START))
    train = page.id_of("LoRA2Train")
    page.page.mouse.move(2, 2)
    page.alone(train, (640, 860))
    page.fill("LoRA2Train", seed=1)
    page.queue()
    steps = "document.querySelector('[data-lora2-view=train]')?.dataset"
    page.page.wait_for_function(f"{steps}.step >= 180 && {steps}.step < 300", timeout=RUN)
    page.shoot(DOCS / "training.png", train, scale=1.1)
    page.page.evaluate("fetch('/interrupt', { method: 'POST' })")
    page.wait_until_idle()


def samples(page: FrontEnd, server: ComfyServer) -> list[list[Path]]:
    """The pictures of the two Preview Image nodes, the one above first."""
    found = page.page.evaluate(
        """async () => {
        const [job] = Object.values(await (await fetch('/history?max_items=1')).json());
        const nodes = app.graph.nodes.filter(n => n.type === 'PreviewImage');
        nodes.sort((a, b) => a.pos[1] - b.pos[1]);
        return nodes.map(n => job.outputs[n.id].images);
    }"""
    )
    return [
        [server.base / i["type"] / i["subfolder"] / i["filename"] for i in row] for row in found
    ]


def help_pages(page: Studio, server: ComfyServer) -> None:
    """One picture for every node; the training is that of before."""
    page.open(workflow(QUICK_START))
    page.fill("LoRA2Save", filename_prefix="lora2/owl")
    ids = add_all(page)
    page.page.evaluate("app.refreshComboInNodes()")
    page.page.wait_for_timeout(500)
    newest = sorted((server.base / "models/loras/lora2").glob("*.safetensors"))[-1]
    page.fill("LoRA2Load", lora_name=f"lora2/{newest.name}")
    page.fill("LoRA2StartOptions", lora_name=f"lora2/{newest.name}")
    sample(page, ids["LoRA2Apply"], 0, (5000, 8000), steps=1)
    sample(page, ids["LoRA2Load"], 0, (5000, 9000), steps=1)
    page.queue()
    page.wait_until_idle()
    for kind, node in ids.items():
        if kind != "pair":
            page.alone(node, SIZES.get(kind))
            page.shoot(HELP / f"{kind}.png", node)
    page.alone(ids["pair"], (560, 640))
    page.shoot(HELP / "compare.png", ids["pair"])
    captions(page, ids["LoRA2Dataset"])


def untrained(page: Studio) -> None:
    """The pictures of help pages whose nodes need no training."""
    page.page.evaluate("app.graph.clear()")
    page.page.evaluate("app.refreshComboInNodes()")
    options = [k for k in sorted(page.known()) if k.startswith("LoRA2") and k.endswith("Options")]
    options.remove("LoRA2StartOptions")  # it names a trained file
    ids = {}
    for i, kind in enumerate((*reversed(UNTRAINED), *options)):
        model = ids.get("LoRA2Playground")
        links = {
            "LoRA2Dataset": [("clip", model, 1), ("vae", model, 2)],
            "LoRA2Layers": [("model", model, 0)],
        }
        values = {
            "LoRA2Dataset": {"folder": "owl", "resolution": 32, "caption": "owl"},
            "LoRA2Layers": {"layers": "attention"},  # a short table
        }
        at = (5000 + i % 4 * 1200, i // 4 * 1200)
        ids[kind] = page.add(kind, at, links.get(kind, []), **values.get(kind, {}))
    page.queue()
    page.wait_until_idle()
    for kind, node in ids.items():
        page.alone(node)
        page.shoot(HELP / f"{kind}.png", node)
    captions(page, ids["LoRA2Dataset"])


def captions(page: Studio, node: int) -> None:
    """The table of captions in LoRA² Dataset."""
    page.place(node)
    page.view(node).get_by_role("button", name="Captions", exact=True).click()
    page.view(node).locator(".row").first.wait_for()
    page.page.mouse.move(2, 2)
    page.alone(node, (480, 720))
    page.shoot(HELP / "captions.png", node)


def examples(page: Studio, server: ComfyServer) -> None:
    """The pictures by which the front end offers the examples. Those of the quick start and of
    prior preservation were put together by hand.
    """
    cards.photographs(WORKFLOWS / "LoRA2 SDXL subject.jpg", "SDXL")
    cards.photographs(WORKFLOWS / "LoRA2 Flux subject.jpg", "Flux")
    cards.captioned(WORKFLOWS / "LoRA2 Krea 2 captions.jpg")
    cards.style(WORKFLOWS / "LoRA2 SDXL style.jpg")
    cards.merged(WORKFLOWS / "LoRA2 merge two adapters.jpg")
    cards.extracted(WORKFLOWS / "LoRA2 extract from two models.jpg")
    for name in ("LoRA2 resume a run", "LoRA2 subject with text encoder"):
        page.open(workflow(name))
        page.queue()
        page.wait_until_idle()
        if name.endswith("run"):
            drawn = (server.base / "output/lora2/previews").glob("owl*.png")
            cards.resumed(WORKFLOWS / f"{name}.jpg", list(drawn))
        else:
            lora = max((server.base / "models/loras/lora2").glob("owl_text*.safetensors"))
            title = "The text encoder learns too"
            cards.before_and_after(WORKFLOWS / f"{name}.jpg", title, *samples(page, server), lora)


def main() -> None:
    with ComfyServer() as server, sync_playwright() as playwright:
        pictures_folder(server.base)
        path = find_or_install_chromium()
        browser = playwright.chromium.launch(executable_path=path, args=launch_args())
        studio = open_studio(browser, server)
        if "untrained" in sys.argv[1:]:
            untrained(studio)
            browser.close()
            return
        for folder in toy_encoders(cache_folder() / "toy"):
            place = server.base / "models/clip_vision" / folder.name
            shutil.copytree(folder, place)
        if "examples" not in sys.argv[1:]:
            readme(studio, server)
            help_pages(studio, server)
            midway(studio)
        examples(studio, server)
        browser.close()


if __name__ == "__main__":
    main()
