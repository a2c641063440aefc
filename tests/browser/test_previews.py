"""The newer examples in the real front end: a run that shows its previews, and graphs that only
lack their files.
"""

from __future__ import annotations

import pytest

from tests.browser.test_front_end import (
    FLUX,
    LOADERS,
    RESUME,
    RUN,
    SHORTEN,
    STYLE,
    FrontEnd,
    front_end,  # noqa: F401
    workflow,
)

STEPS = 4
SHOWN = """() => {
    const root = document.querySelector('[data-lora2-view=preview]');
    const report = app.graph.nodes.find(n => n.type === 'LoRA2Report');
    const pictures = [...root?.querySelectorAll('img') ?? []];
    return {
        captions: [...root?.querySelectorAll('figcaption') ?? []].map(c => c.textContent),
        loaded: pictures.filter(p => p.complete && p.naturalWidth === 32).length,
        report: app.nodeOutputs[report.id]?.images?.length ?? 0,
    };
}"""
DONE = f"() => {{ const s = ({SHOWN})(); return s.report && s.loaded === s.captions.length; }}"
REFUSAL = """async () => {
    const { output } = await app.graphToPrompt();
    const body = JSON.stringify({ prompt: output });
    const answer = await fetch('/prompt', { method: 'POST', body });
    const errors = Object.values((await answer.json()).node_errors ?? {});
    return [answer.status, errors.flatMap(e => e.errors.map(f => [e.class_type, f.type]))];
}"""


@pytest.mark.parametrize("renderer", ["classic", "vue"])
def test_previews_are_shown_in_the_node(front_end: FrontEnd, renderer: str) -> None:  # noqa: F811
    front_end.set("Comfy.VueNodes.Enabled", renderer == "vue")
    front_end.open(workflow(RESUME))
    steps = STEPS + (renderer == "vue")  # another run: nothing is cached, no checkpoint fits
    front_end.page.evaluate(SHORTEN, steps)
    front_end.page.evaluate(
        """name => app.graph.nodes.forEach(n => n.widgets?.forEach(w => {
            if (n.type === 'LoRA2CheckpointOptions' && w.name === 'name') w.value = name;
            if (n.type === 'LoRA2PreviewOptions' && w.name === 'steps') w.value = 2;
            if (n.type === 'LoRA2PreviewOptions' && w.name === 'every') w.value = 2;
        }))""",
        renderer,
    )
    front_end.page.evaluate("app.queuePrompt(0, 1)")
    front_end.page.wait_for_function(DONE, timeout=RUN)
    shown = front_end.page.evaluate(SHOWN)
    last = ["step 5"] if renderer == "vue" else []
    assert shown["captions"] == ["before", "step 2", "step 4", *last]
    assert front_end.complaints == []


@pytest.mark.parametrize("name", [STYLE, FLUX])
def test_an_example_lacks_only_files(front_end: FrontEnd, name: str) -> None:  # noqa: F811
    """The server's own validation names the loaders, and the folder of pictures, and no more."""
    front_end.open(workflow(name))
    status, faults = front_end.page.evaluate(REFUSAL)
    assert status == 400
    allowed = {(loader, "value_not_in_list") for loader in LOADERS}
    assert {tuple(fault) for fault in faults} <= allowed | {
        ("LoRA2Dataset", "custom_validation_failed")
    }
