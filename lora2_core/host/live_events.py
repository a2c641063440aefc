"""Live events of a run: sent to every open page, and again to pages that are opened later."""

from __future__ import annotations

from server import PromptServer

PAUSE = 2.0  # seconds without a newer event, after which the newest one is sent again
_newest: dict[tuple[str | None, str], dict] = {}  # (prompt, node) -> event


def send(kind: str, event: dict) -> None:
    """Sends an event to every open page, since the page that queued the prompt may be closed. The
    ids of workflow and node in it tell a page whether it is meant.

    Events from which a new page can show the run (with `points`, or before the first step) are
    sent again until the prompt ends, however long a step or the nodes behind take.
    """
    server = PromptServer.instance
    server.send_sync(kind, event)
    loop = getattr(server, "loop", None)  # a server that is not running has none
    if loop is not None and ("points" in event or "step" not in event):
        loop.call_soon_threadsafe(_keep, kind, event)


def _keep(kind: str, event: dict) -> None:
    """Notes an event as the newest of its node, to be sent again after a pause."""
    key = event["prompt_id"], event["node"]
    _newest[key] = event
    PromptServer.instance.loop.call_later(PAUSE, _repeat, kind, key, event)


def _repeat(kind: str, key: tuple[str | None, str], event: dict) -> None:
    """Sends an event again, unless a newer one came, which has a repetition of its own."""
    if _newest.get(key) is not event:
        return
    server = PromptServer.instance
    running = list(server.prompt_queue.currently_running.values())
    if all(prompt != key[0] for _, prompt, *_ in running):
        del _newest[key]
        return
    server.send_sync(kind, event)
    server.loop.call_later(PAUSE, _repeat, kind, key, event)
