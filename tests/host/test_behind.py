"""Whether a prompt's nodes take an adapter: links, indirect ones, and nodes that are left out."""

import pytest

from lora2_core.host.behind import is_taken, running

PROMPT = {
    "t": {"inputs": {"model": ["m", 0], "steps": 3}},
    "m": {"inputs": {}},
    "save": {"inputs": {"lora2": ["t", 0], "filename_prefix": "x"}},
    "apply": {"inputs": {"model": ["m", 0], "lora2": ["t", 0]}},
    "sample": {"inputs": {"model": ["apply", 0], "seed": 1, "pair": [1, 2]}},
    "picture": {"inputs": {"images": ["sample", 0]}},
    "clip": {"inputs": {"clip": ["t", 3]}},
    "start": {"inputs": {"lora2": ["t", 0]}},
    "second": {"inputs": {"options": ["start", 0]}},
    "loop": {"inputs": {"back": ["loop", 0]}},
}


@pytest.mark.parametrize(
    ("executed", "taken"),
    [
        (["t"], False),
        (["t", "save"], True),
        (["t", "picture"], True),
        (["t", "second"], True),
        (["t", "clip"], False),
        (["t", "loop", "gone"], False),
        ([], False),
    ],
)
def test_taken(executed, taken):
    assert is_taken("t", 3, PROMPT, executed) is taken
    assert is_taken("made by another node", 3, PROMPT, executed)


class Server:
    """As much of the host's server as is looked at."""

    class prompt_queue:
        currently_running = {0: (1, "other", {}, {}, []), 1: (2, "ours", PROMPT, {}, ["t"], {})}


def test_the_running_prompt():
    assert running(Server, "ours") == (PROMPT, ["t"])
    assert running(Server, "gone") is None
    assert running(object(), "ours") is None
