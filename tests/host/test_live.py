"""What the graph sees of a run: whole at first, now and then and at the end; cheap for the run."""

import json
import time
from types import SimpleNamespace

import pytest
import torch

from lora2_core.host.training import live
from lora2_core.host.training.held_out import Validated
from lora2_core.host.training.latents import count_pictures
from lora2_core.host.training.live import POINTS, Origin, Progress
from lora2_core.training.run import Step

SDXL = {
    f"diffusion_model.input_blocks.{b}.1.transformer_blocks.{t}.attn{a}.to_{leaf}": 64
    for b in range(7) for t in range(10) for a in (1, 2) for leaf in ("q", "k", "v", "out.0")
}  # fmt: skip
FASTEST = 0.1  # seconds: a step of SDXL on a fast card takes longer


def step(index: int, loss: float = 0.5, ranks: dict[str, int] | None = None) -> Step:
    return Step(index, loss, ranks or {"a.0.b": 3, "a.1.b": 5}, 4.0, 0.25, 0.5)


def follow(steps: int, every: int = 1) -> tuple[Progress, list[dict]]:
    """A run of so many steps, with an event after every so many."""
    progress, events = Progress(Origin("7", "p", "w"), steps), []
    for i in range(1, steps + 1):
        progress.add(step(i, loss=1 / i))
        if i % every == 0:
            events.append(json.loads(json.dumps(progress.event(), allow_nan=False)))
    return progress, events


def test_the_first_event_and_the_last_are_whole():
    _, events = follow(20)
    assert [("points" in e, "map" in e) for e in events] == [(i in (0, 19),) * 2 for i in range(20)]
    assert [c["name"] for c in events[0]["map"]["cells"]] == ["a.0.b", "a.1.b"]
    assert all(e["ranks"] == [3, 5] and e["run"] == events[0]["run"] for e in events)
    assert [p[0] for p in events[-1]["points"]] == list(range(1, 21))


def test_a_page_that_missed_some_gets_all_after_a_while(monkeypatch):
    now = 100.0
    monkeypatch.setattr(live.time, "monotonic", lambda: now)
    progress = Progress(Origin("7", None, None), 100)
    whole = []
    for i in range(1, 41):
        now += 0.5
        progress.add(step(i))
        if "map" in progress.event():
            whole.append(i)
    assert whole == [1, *range(5, 41, 4)]  # every two seconds
    event = progress.event()
    assert event["pace"] == pytest.approx(2) and event["left"] == pytest.approx(30)
    assert event["passed"] == pytest.approx(20)


def test_events_are_at_most_four_a_second(monkeypatch):
    now = 100.0
    monkeypatch.setattr(live.time, "monotonic", lambda: now)
    progress, due = Progress(Origin("7", None, None), 1000), []
    for i in range(1, 1001):
        now += 0.01
        progress.add(step(i))
        due += [i] * progress.due()
    assert due[0] == 1 and due[-1] == 1000
    assert 38 <= len(due) <= 42


@pytest.mark.parametrize("steps", [1, POINTS, POINTS + 1, 12345])
def test_long_runs_keep_few_points_from_all_over(steps: int):
    progress, _ = follow(steps, every=steps)
    seen = [p[0] for p in progress.points]
    assert seen == sorted(set(seen)) and seen[-1] == steps and len(seen) <= POINTS
    assert max(b - a for a, b in zip([0, *seen], seen, strict=False)) <= max(1, 2 * steps / POINTS)


def test_the_finished_adapter_takes_the_place_of_the_last_step():
    progress, _ = follow(5)
    progress.add(Step(5, 0.2, {"a.0.b": 1, "a.1.b": 0}, 0.5, 0.1, 0.5))
    event = progress.event()
    assert event["ranks"] == [1, 0] and event["mb"] == 0.1
    assert [p[0] for p in event["points"]] == [1, 2, 3, 4, 5]


@pytest.mark.parametrize("loss", [float("nan"), float("inf")])
def test_what_json_does_not_have_is_none(loss: float):
    progress = Progress(Origin("7", None, None), 3)
    progress.add(step(1))
    progress.add(step(2, loss))
    event = progress.event(full=True)
    assert json.loads(json.dumps(event, allow_nan=False))["loss"] is None
    assert event["smooth"] == 0.5 and "not a number" in event["text"]


def test_it_costs_less_than_a_percent_of_a_run(capsys):
    """560 layers, steps of a tenth of a second: what is added and sent, with its JSON."""
    steps = 400
    progress = Progress(Origin("7", None, None), steps)
    began, sent, size = time.process_time(), 0, 0
    for i in range(1, steps + 1):
        progress.add(step(i, ranks=SDXL))
        if i * FASTEST >= sent * live.INTERVAL:  # as often as such a run would
            whole = i * FASTEST % live.FULL_INTERVAL < live.INTERVAL
            size += len(json.dumps(progress.event(full=whole)))
            sent += 1
    share = (time.process_time() - began) / (steps * FASTEST)
    with capsys.disabled():
        rate = size / (steps * FASTEST) / 1e3
        print(f"\nlive view: {share:.3%} of a run's time, {rate:.0f} kB a second")
    assert share < 0.01


def test_a_run_that_ended_early_says_how_and_what_is_kept():
    progress = Progress(Origin("7", "p", "w"), 9)
    progress.add(step(4))
    progress.end("cancelled", "lora2/interrupted_00001_.safetensors")
    event = json.loads(json.dumps(progress.event(full=True), allow_nan=False))
    assert event["ended"] == {"why": "cancelled", "kept": "lora2/interrupted_00001_.safetensors"}
    assert "points" in event and "map" in event, "a page that missed all of it can show it"


def test_the_epoch_is_told_where_the_number_of_pictures_is_known():
    progress = Progress(Origin("7", "p", "w"), 40)
    progress.add(step(1))
    assert progress.event()["epoch"] is progress.event()["epochs"] is None
    latents = [{"samples": torch.zeros(3, 4, 8, 8)}, {"samples": torch.zeros(5, 4, 8, 8)}]
    progress.batch_size, progress.pictures = 2, count_pictures(latents)
    progress.add(step(10))
    event = progress.event()
    assert (event["epoch"], event["epochs"]) == (2.5, 10.0)
    assert count_pictures([None]) == count_pictures([{"samples": 3}]) == 0


def test_held_out_losses_are_in_full_events_and_their_time_is_not_in_the_pace(monkeypatch):
    now = 100.0
    monkeypatch.setattr(live.time, "monotonic", lambda: now)
    progress = Progress(Origin("7", "p", "w"), 40)
    for i in range(1, 11):
        now += 1.0
        progress.add(step(i))
        now += 5.0
        progress.validate(Validated(i, [(n, 1 / (n + 1)) for n in range(i + 1)], i, 5.0))
    event = json.loads(json.dumps(progress.event(full=True), allow_nan=False))
    assert event["validation"][:2] == [[0, 1.0], [1, 0.5]] and len(event["validation"]) == 11
    assert event["best"] == 10 and event["pace"] == pytest.approx(1)
    many = [(n, 1.0) for n in range(20 * POINTS)]
    progress.validate(Validated(10, many, 3, 0.0))
    assert len(progress.validation) <= POINTS


def test_a_run_that_has_begun_is_told_as_the_same_run():
    progress = Progress(Origin("7", "p", "w"), 40)
    progress.add(step(1))
    assert progress.ids().items() <= progress.event().items()


class Server:
    """Time goes on when `wait` says so."""

    def __init__(self):
        self.sent, self.later, self.loop, self.prompt_queue = [], [], self, self
        self.currently_running = {0: (0, "p", {}, {}, [])}

    def send_sync(self, kind, event, sid=None):
        self.sent.append((event["step"], sid))

    def call_soon_threadsafe(self, call, *arguments):
        call(*arguments)

    def call_later(self, seconds, call, *arguments):
        self.later.append((call, arguments))

    def wait(self):
        due, self.later = self.later, []
        for call, arguments in due:
            call(*arguments)


def test_the_newest_state_goes_to_every_page_until_the_prompt_ends(monkeypatch):
    from lora2_core.host import live_events

    server = Server()
    monkeypatch.setattr(live_events, "PromptServer", SimpleNamespace(instance=server))
    progress, events = follow(3)
    for event in events:
        live_events.send("lora2.train", event)
    assert server.sent == [(1, None), (2, None), (3, None)], "to all: no page in particular"
    server.wait()
    server.wait()
    assert server.sent[3:] == [(3, None), (3, None)], "the newest, once a pause"
    server.currently_running = {}
    server.wait()
    assert len(server.sent) == 5 and not server.later
