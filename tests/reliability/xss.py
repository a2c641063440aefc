"""`nox -s gate` prints figure 16: the static gate, and what would be markup in the browser."""

from __future__ import annotations

import sys
from pathlib import Path
from random import Random

import safetensors.torch
import torch
from playwright.sync_api import sync_playwright

from tests.browser.front_end import FrontEnd
from tests.hosting.browser import find_or_install_chromium, launch_args
from tests.hosting.server import ComfyServer
from tests.reliability.figures import Figure, keep
from tests.reliability.gate import faults, shipped

STRINGS, A_FILE = 500, 25  # all; in the metadata of one file
TAGS = [
    "<img src=x onerror={}>", "<script>{}</script>", "<svg onload={}>", "<iframe srcdoc='<script>"
    "parent.{}</script>'>", "</textarea><script>{}</script>", "<a href=javascript:{}>a</a>",
    "<details open ontoggle={}>", "<style onload={}>", "<math><mtext><img src=x onerror={}>",
    "'><img src=x onerror={}>", '"><img src=x onerror={}>', "`><img src=x onerror={}>",
    "<video src=x onerror={}>", "<body onload={}>", "<input autofocus onfocus={}>",
    "${{{}}}", "{{{{{}}}}}", "<p style='animation:x' onanimationstart={}>", "&lt;img x={}&gt;",
    "<!--<img src=--><img src=x onerror={}//>", "<template><script>{}</script></template>",
]  # fmt: skip


def strings(count: int) -> list[str]:
    """Distinct ones; each would set window.hurt to its number."""
    random = Random(0)
    found = []
    for number in range(count):
        text = TAGS[number % len(TAGS)].format(f"window.hurt={number + 1}")
        found.append(
            text.upper().replace("WINDOW.HURT", "window.hurt") if number % 7 == 6 else text
        )
        if random.random() < 0.3:
            found[-1] = f"{random.choice(['a', '✓', ' '])}{found[-1]}"
    return found


def file_name(text: str, number: int) -> str:
    """The string as far as a file's name can hold it."""
    return f"{text.replace('/', '∕')[:150]}{number}.safetensors"


def lay_out(server: ComfyServer, texts: list[str]) -> list[str]:
    """Files whose names and metadata hold the strings, and what the loaders call them."""
    folder = server.base / "models" / "loras" / "xss"
    folder.mkdir(parents=True, exist_ok=True)
    pair = {"lora_unet_a.lora_up.weight": torch.ones(5, 1),
            "lora_unet_a.lora_down.weight": torch.ones(1, 6)}  # fmt: skip
    names = []
    for start in range(0, len(texts), A_FILE):
        part = texts[start : start + A_FILE]
        metadata = {f"ss_note_{n:02}": text for n, text in enumerate(part)}
        metadata |= {"modelspec.title": part[0], "modelspec.trigger_phrase": part[-1]}
        names.append(file_name(part[0], start))
        Path(folder, names[-1]).write_bytes(safetensors.torch.save(pair, metadata))
        for number, text in enumerate(part[1:], start + 1):
            Path(folder, file_name(text, number)).write_bytes(b"")
    return [f"xss/{name}" for name in names]


def shown_as_text(page: FrontEnd, server: ComfyServer, count: int) -> list[str]:
    """What is wrong: strings that a view does not show, that became elements, or that ran."""
    texts, wrong = strings(count), []
    names = lay_out(server, texts)
    page.page.evaluate("app.graph.clear()")
    page.page.evaluate("app.refreshComboInNodes()")
    for number, name in enumerate(names):
        part = texts[number * A_FILE : (number + 1) * A_FILE]
        page.page.evaluate("app.graph.clear()")
        info = page.add("LoRA2Info", (0, 0), [], lora_name=name)
        shown = page.add("PreviewAny", (700, 0), [("source", info, 2)])
        page.queue()
        page.wait_until_idle()
        output = page.output(info)
        page.show(info)
        view = page.view(info)
        text = view.text_content()
        wrong += [f"not shown: {name}"] if name not in text else []
        wrong += [f"not shown: {t}" for t in (part[-1],) if " ".join(t.split()) not in text]
        metadata = "".join(page.output(shown).get("text", []))
        wrong += [f"not in the metadata: {t}" for t in part if t.strip() not in metadata]
        inside = view.locator("img, script, iframe, video, details, [onerror], [onload]")
        if inside.count() or not output:
            wrong.append(f"markup in the view of {name}")
    hurt = page.page.evaluate("window.hurt")
    if hurt is not None:
        wrong.append(f"string {hurt} ran")
    return wrong + page.complaints


def main() -> None:
    static = faults()
    with ComfyServer() as server, sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=find_or_install_chromium(), args=launch_args()
        )
        wrong = shown_as_text(FrontEnd(browser.new_page(), server), server, STRINGS)
        browser.close()
    for fault in (static + wrong)[:20]:
        sys.stdout.write(f"  {fault}\n")
    files = len(shipped("py")), len(shipped("js"))
    measured = f"{files[0]} Python files and {files[1]} scripts: {len(static)} faults; {STRINGS} "
    measured += f"strings in file names and metadata: {len(wrong)} ran, became elements or are not "
    keep("gate", [Figure(16, f"{measured}shown", not static and not wrong)])


if __name__ == "__main__":
    main()
