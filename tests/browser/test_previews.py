"""A run that shows its previews in the node, and still does when the page is loaded again."""

from __future__ import annotations

from tests.browser.front_end import RUN, FrontEnd, workflow
from tests.browser.looks import Look

STEPS = 4
SHOWN = """() => {
    const root = document.querySelector('[data-lora2-view=train] .pictures');
    const report = app.graph.nodes.find(n => n.type === 'LoRA2Report');
    const pictures = [...root?.querySelectorAll('img') ?? []];
    return {
        captions: [...root?.querySelectorAll('figcaption') ?? []].map(c => c.textContent),
        loaded: pictures.filter(p => p.complete && p.naturalWidth === 32).length,
        report: app.nodeOutputs[report.id]?.images?.length ?? 0,
    };
}"""


def until(condition: str) -> str:
    return f"() => {{ const s = ({SHOWN})(); return {condition}; }}"


def test_previews_are_shown_in_the_node(page_of_look: FrontEnd, look: Look) -> None:
    front_end = page_of_look
    front_end.open(workflow("LoRA2 resume a run"))
    front_end.fill("LoRA2Train", steps=STEPS)
    front_end.fill("LoRA2CheckpointOptions", name="-".join(look))  # another run: nothing is cached
    front_end.fill("LoRA2PreviewOptions", steps=2, every=2)
    front_end.queue()
    done = until("s.report && s.captions.length === 3 && s.loaded === 3")
    front_end.page.wait_for_function(done, timeout=RUN)
    captions = front_end.page.evaluate(SHOWN)["captions"]
    assert captions == ["before", "step 2", "step 4"]
    front_end.page.reload()
    front_end.wait_until_ready()
    front_end.page.wait_for_function(until("s.captions.length === 3"), timeout=RUN)
    assert front_end.complaints == []
