"""The nodes that the host runs after a node: a prompt may hold others, which it leaves out."""

from __future__ import annotations

from collections.abc import Iterable, Mapping


def sources(inputs: Mapping) -> list[tuple[str, int]]:
    """Returns (node, output) of every link in the inputs of a node of an API prompt."""
    links = (v for v in inputs.values() if isinstance(v, (list, tuple)) and len(v) == 2)
    return [(str(node), slot) for node, slot in links if isinstance(slot, int)]


def is_taken(node: str, slots: int, prompt: Mapping, executed: Iterable[str]) -> bool:
    """Returns whether one of the `executed` nodes needs one of the first `slots` outputs of `node`;
    True if the prompt has no such node, since another node has made it then.
    """
    if node not in prompt:
        return True
    waiting, seen = [name for name in executed if name != node], set()
    while waiting:
        if (name := waiting.pop()) in seen:
            continue
        seen.add(name)
        for source, slot in sources((prompt.get(name) or {}).get("inputs") or {}):
            if source == node and slot < slots:
                return True
            waiting.append(source)
    return False


def running(server, prompt_id: str | None) -> tuple[Mapping, list[str]] | None:
    """Returns the running prompt and the output nodes that the host executes of it; None where the
    host does not say.
    """
    queue = getattr(server, "prompt_queue", None)
    for _, name, prompt, _, executed, *_ in list(getattr(queue, "currently_running", {}).values()):
        if name == prompt_id:
            return prompt, list(executed)
    return None
