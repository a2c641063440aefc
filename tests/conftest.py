"""How every test finds its modules, and the running things that tests share.

- `import lora2_core`: the core, for pure tests; also in tests of the nodes (it is one module).
- `import comfyui_lora2.nodes`: the pack as the host loads it, never `import nodes`, which is
  ComfyUI's.
- `from tests.graphs import quick_start`: our helpers.
- `import comfy`: the host, once the nox session has set LORA2_HOST; on the CPU without a GPU.

tests/hosting/inprocess.py says how and why. Tests under host/, server/ and browser/ get the markers
of those names; they never skip: without a host they fail with one sentence.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # enter() moves it to the end
from tests.hosting import inprocess  # noqa: E402
from tests.hosting.browser import find_or_install_chromium  # noqa: E402
from tests.hosting.server import ComfyServer  # noqa: E402

HOST = Path(os.environ["LORA2_HOST"]) if os.environ.get("LORA2_HOST") else None
NO_HOST = (
    "This needs the host: run `python -m nox -s tests`, or set LORA2_HOST to a ComfyUI folder."
)
MARKERS = {"host": ("host",), "server": ("server",), "browser": ("browser", "server")}
inprocess.enter(HOST)


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--full", action="store_true", help="browser: every renderer and theme")
    parser.addoption("--update-pictures", action="store_true", help="browser: store what is seen")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Marks each test by the folder it lies in."""
    for item in items:
        tier = item.path.relative_to(Path(__file__).parent).parts[0]
        for marker in MARKERS.get(tier, ()):
            item.add_marker(marker)


@pytest.fixture(scope="session")
def host() -> Path:
    """The ComfyUI folder."""
    if HOST is None:
        pytest.fail(NO_HOST, pytrace=False)
    return HOST


@pytest.fixture(scope="session")
def server(host: Path) -> Iterator[ComfyServer]:
    """A running ComfyUI with this pack, one for the whole run."""
    with ComfyServer(host=host) as running:
        yield running


@pytest.fixture(scope="session")
def chromium() -> Path:
    """The executable of a Chromium, installed first where there is none."""
    return find_or_install_chromium()
