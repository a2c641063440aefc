"""One run seen by several pages: that which queued it, one that was opened in its middle, one with
another workflow; a workflow tab that is left and opened again; runs of no workflow.
"""

from __future__ import annotations

import pytest

from tests.browser.front_end import OPEN, QUICK_START, RUN, FrontEnd, workflow
from tests.browser.looks import Look
from tests.browser.made_up import rank_map
from tests.browser.test_room import check_room

pytestmark = pytest.mark.slow  # test_tabs.py and test_views.py hold its plainest cases
STEPS = 150
SOON = 6000  # milliseconds; two seconds, and what a busy machine adds
OURS, OTHER = (f"{n}{n}d5c1a0-1d7c-4b55-9d0c-52a1f0c1a5e{n}" for n in (1, 2))
STEP = "document.querySelector('[data-lora2-view=train]')?.dataset.step"
MAPPED = "document.querySelector('[data-lora2-view=heatmap] rect.cell')"


class Pages:
    """Page `first` queues a run, `second` is opened in its middle, `third` has another workflow."""

    def __init__(self, first: FrontEnd, look: Look):
        self.first, self.server, self.look = first, first.server, look
        first.open(workflow(QUICK_START) | {"id": OURS})
        self.train = self.first.id_of("LoRA2Train")
        self.heatmap = self.first.id_of("LoRA2RankHeatmap")

    def open(self, graph: dict) -> FrontEnd:
        front_end = FrontEnd(self.first.page.context.new_page(), self.server)
        front_end.wear(self.look.renderer, self.look.theme)
        front_end.open(graph)
        return front_end


@pytest.fixture(scope="module")
def pages(page_of_look: FrontEnd, look: Look):
    pages = Pages(page_of_look, look)
    first, page = pages.first, pages.first.page
    pages.third = pages.open(workflow(QUICK_START) | {"id": OTHER})
    first.fill("LoRA2Train", steps=STEPS, seed=sum(map(len, look)))  # nothing is cached
    first.fill("LoRA2Save", filename_prefix=f"pages/{'-'.join(look)}")
    first.fill("KSampler", steps=1)
    pages.saved = page.evaluate("app.graph.serialize()")
    first.queue()
    page.wait_for_function(f"{STEP} >= 5", timeout=RUN)
    pages.second = pages.open(pages.saved)
    pages.second.page.wait_for_function(f"{STEP} >= 5", timeout=SOON)
    pages.middle = pages.second.data(pages.train)
    page.evaluate(OPEN, workflow(QUICK_START) | {"id": OTHER})
    page.wait_for_timeout(700)
    pages.elsewhere = first.data(pages.train)
    page.evaluate(OPEN, pages.saved)
    page.wait_for_timeout(100)
    pages.back = first.data(pages.train)
    first.wait_until_idle()
    pages.second.page.wait_for_function(MAPPED, timeout=SOON)
    yield pages
    for front_end in (pages.second, pages.third):
        front_end.page.close()


def test_a_page_opened_in_the_middle_shows_the_run(pages: Pages) -> None:
    assert 5 <= int(pages.middle["step"]) < STEPS == int(pages.middle["steps"])
    assert int(pages.middle["points"]) > 0.7 * int(pages.middle["step"])


def test_a_workflow_tab_that_is_opened_again_shows_the_run_at_once(pages: Pages) -> None:
    assert "step" not in pages.elsewhere, "the other workflow's node has the same id"
    assert int(pages.back["step"]) >= 5 and int(pages.back["steps"]) == STEPS


def test_every_page_has_the_end_of_the_run(pages: Pages) -> None:
    told = [{k: v for k, v in p.data(pages.train).items() if k in ("step", "points", "rank")}
            for p in (pages.first, pages.second)]  # fmt: skip
    assert told[0] == told[1] and int(told[0]["step"]) == STEPS
    assert pages.second.data(pages.heatmap)["layers"] == "56"
    assert "step" not in pages.third.data(pages.train)


def test_the_heatmap_is_whole_on_both_and_after_a_reload(pages: Pages) -> None:
    for front_end in (pages.first, pages.second):
        front_end.show(pages.heatmap)
        check_room(front_end, pages.heatmap)
    page = pages.second.page
    page.reload()
    pages.second.wait_until_ready()
    pages.second.open(pages.saved)
    page.wait_for_function(MAPPED)
    pages.second.show(pages.heatmap)
    check_room(pages.second, pages.heatmap)


def test_what_ends_while_another_tab_is_open_is_not_shown_in_it(pages: Pages) -> None:
    page = pages.first.page
    page.evaluate(OPEN, workflow(QUICK_START) | {"id": OTHER})
    page.wait_for_timeout(500)
    output = {"lora2_rank_map": [rank_map(0)]}
    page.evaluate("([id, o]) => app.graph.getNodeById(id).onExecuted(o)", [pages.heatmap, output])
    page.wait_for_timeout(500)
    shown = "layers" in pages.first.data(pages.heatmap)
    page.evaluate(OPEN, pages.saved)
    page.wait_for_timeout(1000)
    assert not shown


def test_a_run_of_no_workflow_is_in_nobodys_node(pages: Pages) -> None:
    prompt = pages.first.page.evaluate("app.graphToPrompt().then(p => p.output)")
    train = prompt[str(pages.train)]["inputs"]
    train |= {"steps": 2, "seed": 77}
    keys = (str(pages.train), str(pages.heatmap))
    before = [pages.first.data(pages.train), pages.third.data(pages.train)]
    needed, wanted = {}, list(keys)
    while wanted:
        key = wanted.pop()
        needed[key] = prompt[key]
        wanted += [v[0] for v in prompt[key]["inputs"].values() if isinstance(v, list)]
    pages.server.run(needed)
    pages.first.page.wait_for_timeout(2500)
    assert [pages.first.data(pages.train), pages.third.data(pages.train)] == before


def test_our_scripts_did_not_complain(pages: Pages) -> None:
    assert [p.complaints for p in (pages.first, pages.second, pages.third)] == [[]] * 3
