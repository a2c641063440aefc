"""A node that fails says why in itself: the front end's own message has it only after a click."""

from tests.browser.front_end import QUICK_START, RUN, FrontEnd, workflow

CONNECT = """() => {
    const of = type => app.graph.nodes.find(n => n.type === type);
    const [model, train] = [of('LoRA2Playground'), of('LoRA2Train')];
    model.connect(1, train, train.inputs.findIndex(i => i.name === 'clip'));
}"""
DISCONNECT = """() => {
    const train = app.graph.nodes.find(n => n.type === 'LoRA2Train');
    train.disconnectInput(train.inputs.findIndex(i => i.name === 'clip'));
}"""


def test_the_node_says_why_it_failed_until_it_runs_again(page_of_look: FrontEnd) -> None:
    front_end = page_of_look
    front_end.open(workflow(QUICK_START))
    front_end.fill("LoRA2Train", steps=1, target_rank=1)
    front_end.fill("KSampler", steps=1)
    view = front_end.view(front_end.id_of("LoRA2Train"))
    front_end.page.evaluate(CONNECT)  # the captions of Make Training Dataset are no text
    front_end.queue()
    fault = view.locator(".fault")
    fault.wait_for(timeout=RUN)
    assert fault.text_content().startswith("positive does not say its captions as text")
    assert fault.is_visible() and not view.locator(".empty").is_visible()
    front_end.wait_until_idle()
    front_end.page.evaluate(DISCONNECT)
    front_end.queue()
    fault.wait_for(state="detached", timeout=RUN)
    front_end.wait_until_idle()
    assert front_end.data(front_end.id_of("LoRA2Train"))["step"] == "1"
    assert fault.count() == 0 and front_end.complaints == []
