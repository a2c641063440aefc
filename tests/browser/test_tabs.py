"""Runs and the workflows that are open: node ids repeat in them, and a page has no more than one
open. With made-up events and runs of two steps; test_pages.py follows a long run on three pages.
"""

from __future__ import annotations

import pytest

from tests.browser.front_end import OPEN, QUICK_START, RUN, FrontEnd, workflow
from tests.browser.made_up import rank_map, training

OURS, OTHER = (f"{n}{n}d5c1a0-1d7c-4b55-9d0c-52a1f0c1a5e{n}" for n in (3, 4))
EVENT = "event => app.api.dispatchCustomEvent('lora2.train', event)"
STARTED = "event => app.api.dispatchCustomEvent('lora2.train_begun', event)"
SHOW = "([id, output]) => app.graph.getNodeById(id).onExecuted(output)"
BEGUN = "id => app.api.dispatchCustomEvent('execution_start', { prompt_id: id })"
PROMPT = "app.graphToPrompt().then(p => p.output)"
OVER = """heatmap => document.querySelector('[data-lora2-view=train]')?.dataset.step === '2'
    && document.querySelector('[data-lora2-view=heatmap] rect.cell')"""


class Opened:
    """A page with the quick start, short enough to run; ids of its nodes."""

    def __init__(self, front_end: FrontEnd):
        self.front_end, self.page = front_end, front_end.page
        front_end.open(workflow(QUICK_START) | {"id": OURS})
        front_end.fill("LoRA2Train", steps=2, batch_size=1, layers="attention")
        self.train = front_end.id_of("LoRA2Train")
        self.heatmap = front_end.id_of("LoRA2RankHeatmap")
        self.saved = self.page.evaluate("app.graph.serialize()")

    def event(self, run: str) -> dict:
        """Makes up what a server sends of a run."""
        return training() | {"node": str(self.train), "workflow": OURS, "run": run}

    def other(self) -> None:
        """Opens another workflow, whose nodes have the same ids."""
        self.page.evaluate(OPEN, workflow(QUICK_START) | {"id": OTHER})
        self.page.wait_for_timeout(300)

    def run_elsewhere(self, seed: int, owner: str | None) -> str:
        """Queues the training and the heatmap as another client does, of a workflow or of none;
        returns the prompt's id.
        """
        prompt = self.page.evaluate(PROMPT)
        prompt[str(self.train)]["inputs"]["seed"] = seed
        needed, wanted = {}, [str(self.train), str(self.heatmap)]
        while wanted:
            key = wanted.pop()
            needed[key] = prompt[key]
            wanted += [v[0] for v in prompt[key]["inputs"].values() if isinstance(v, list)]
        data = {"prompt": needed, "client_id": "another"}
        if owner:
            data["extra_data"] = {"extra_pnginfo": {"workflow": {"id": owner}}}
        address = f"{self.front_end.server.address}/prompt"
        answer = self.page.request.post(address, data=data)
        assert answer.ok
        return answer.json()["prompt_id"]


@pytest.fixture(scope="module")
def opened(page_of_look: FrontEnd) -> Opened:
    opened = Opened(page_of_look)
    opened.prompt = opened.run_elsewhere(1, OURS)
    opened.page.wait_for_function(OVER, timeout=RUN)
    return opened


def test_a_run_that_another_page_queued_is_shown_where_its_workflow_is_open(opened: Opened) -> None:
    data = opened.front_end.data(opened.train)
    assert data["steps"] == "2" and opened.front_end.data(opened.heatmap)["layers"] == "56"


def test_a_run_of_no_workflow_is_in_nobodys_node(opened: Opened) -> None:
    before = opened.front_end.data(opened.train)
    opened.run_elsewhere(2, None)
    opened.front_end.wait_until_idle()
    assert opened.front_end.data(opened.train) == before


def test_a_workflow_that_is_opened_again_shows_its_run_at_once(opened: Opened) -> None:
    event = opened.event("tabs")
    opened.page.evaluate(EVENT, event)
    assert opened.front_end.data(opened.train)["step"] == "298"
    opened.other()
    assert "step" not in opened.front_end.data(opened.train)
    opened.page.evaluate(EVENT, event | {"step": 299})
    assert "step" not in opened.front_end.data(opened.train), "it is the other workflow's node"
    opened.page.evaluate(OPEN, opened.saved)
    opened.page.wait_for_timeout(100)
    assert opened.front_end.data(opened.train)["step"] == "299"


def test_what_ends_while_another_workflow_is_open_is_not_shown_in_it(opened: Opened) -> None:
    """The front end hands the output to any open node of that id."""
    opened.page.evaluate(BEGUN, opened.prompt)
    opened.other()
    try:
        output = {"lora2_rank_map": [rank_map(0)]}
        opened.page.evaluate(SHOW, [opened.heatmap, output])
        opened.page.wait_for_timeout(300)
        assert "layers" not in opened.front_end.data(opened.heatmap)
    finally:
        opened.page.evaluate(OPEN, opened.saved)
    assert opened.front_end.complaints == []


def test_a_run_that_has_begun_says_so_before_its_first_step(page_of_look: FrontEnd) -> None:
    """In its own workflow only."""
    page = page_of_look.page
    page.evaluate("app.graph.clear()")
    node = page_of_look.add("LoRA2Train", (0, 0), [])
    empty = page_of_look.view(node).locator(".empty")
    before = empty.text_content()
    begun = {"node": str(node), "workflow": OTHER, "prompt_id": "p", "run": "next"}
    page.evaluate(STARTED, begun)
    assert empty.text_content() == before
    page.evaluate(STARTED, begun | {"workflow": page.evaluate("app.graph.id")})
    assert empty.text_content().startswith("Running. The first step comes")
