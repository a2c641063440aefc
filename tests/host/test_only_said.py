"""Whatever shows a run may fail at any time: the run goes on to the same adapter."""

import sys
import threading
from types import SimpleNamespace

import comfy.model_management
import comfy.utils
import pytest
import server
import tqdm.std

from lora2_core.host.training import hints, live
from lora2_core.host.training.console import Console
from tests.host.test_bad_input import ARGUMENTS


class Fault(RuntimeError):
    """Of a bar, a socket or a terminal."""


def fail(*_, **__):
    raise Fault("gone \u00b2")


def quiet(*_, **__):
    pass


@pytest.fixture
def run(nodes, playground, monkeypatch):
    """Trains through the node; returns its output."""
    loop = SimpleNamespace(call_soon_threadsafe=quiet)
    host = SimpleNamespace(client_id=None, last_prompt_id=None, send_sync=quiet, loop=loop)
    monkeypatch.setattr(server.PromptServer, "instance", host, raising=False)
    data = {"model": playground.model, "latents": playground.latents}

    def go(**changes):
        given = ARGUMENTS | {"model": [data["model"]], "latents": data["latents"]}
        return nodes["LoRA2Train"].execute(**given | {"positive": playground.positive} | changes)

    go.host = host
    return go


def weights(output) -> list:
    return [(layer.up.tolist(), layer.down.tolist()) for layer in output.result[0].layers.values()]


FAULTS = {
    "events": lambda patch, host: patch.setattr(host, "send_sync", fail),
    "bar": lambda patch, host: patch.setattr(comfy.utils, "PROGRESS_BAR_HOOK", fail),
    "tqdm": lambda patch, host: patch.setattr(tqdm.std.tqdm, "update", fail),
    "tqdm's beginning": lambda patch, host: patch.setattr(tqdm.std.tqdm, "__init__", fail),
    "the last line": lambda patch, host: patch.setattr(Console, "end", fail),
    "progress": lambda patch, host: patch.setattr(live.Progress, "add", fail),
    "an event's text": lambda patch, host: patch.setattr(live.Progress, "event", fail),
    "hints": lambda patch, host: patch.setattr(hints, "has_strength", fail),
    "terminal": lambda patch, host: patch.setattr(
        sys, "stderr", SimpleNamespace(write=fail, flush=fail, encoding="cp932")
    ),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_what_shows_a_run_may_fail(run, monkeypatch, fault: str):
    right = weights(run())
    with monkeypatch.context() as patch:
        FAULTS[fault](patch, run.host)
        broken = weights(run(budget_mb=[0.0]))
    assert broken == right
    other = threading.Thread(target=take_the_lock, daemon=True)
    other.start()
    other.join(10)
    assert not other.is_alive()


def take_the_lock() -> None:
    """All bars of a process share it: one that broke off must not keep it."""
    with tqdm.std.tqdm.get_lock():
        pass


@pytest.mark.parametrize("where", ["bar", "events"])
def test_the_hosts_interrupt_passes(run, monkeypatch, where: str):
    def interrupt(*_, **__):
        raise comfy.model_management.InterruptProcessingException

    place = (comfy.utils, "PROGRESS_BAR_HOOK") if where == "bar" else (run.host, "send_sync")
    monkeypatch.setattr(*place, interrupt)
    with pytest.raises(comfy.model_management.InterruptProcessingException):
        run()


def test_a_preview_that_can_not_be_shown(run, nodes, playground, monkeypatch):
    shown = []

    def picky(event, data, sid=None):
        shown.append(data)
        if data.get("previews"):
            fail()

    monkeypatch.setattr(run.host, "send_sync", picky)
    (options,) = nodes["LoRA2PreviewOptions"].execute(
        positive=playground.positive[0], vae=playground.vae, every=1, steps=1
    ).result  # fmt: skip
    assert weights(run(options=[options])) == weights(run())
    assert any(event.get("previews") for event in shown)


def test_hints_tell_what_will_not_count(run, playground):
    def notes(**changes) -> list[str]:
        return run(**changes).ui["lora2.train"][0]["notes"]

    strong = [[[e[0], e[1] | {"strength": 0.5}] for e in given] for given in playground.positive]
    assert notes(learning_rate=[5e-3]) == []
    assert notes(learning_rate=[5e-3], positive=strong) == [
        "The strength of a caption is not used in training."
    ]
    assert "adaptive mode only" in notes(learning_rate=[5e-3], mode=["fixed"], budget_mb=[1.0])[0]
    small = run(learning_rate=[5e-3], budget_mb=[0.001])
    assert "below one rank of every layer" in small.ui["lora2.train"][0]["notes"][0]
    assert sum(small.result[0].ranks.values()) > 0
