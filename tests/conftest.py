"""How every test finds its modules, and the running things that tests share.

- `import lora2_core`: the core, for pure tests; also in tests of the nodes (it is one module).
- `import comfyui_lora2.nodes`: the pack as the host loads it, never `import nodes`, which is
  ComfyUI's.
- `from tests.graphs import quick_start`: our helpers.
- `import comfy`: the host, once the nox session has set LORA2_HOST; on the CPU without a GPU.

tests/hosting/inprocess.py says how and why. Tests under host/, server/ and browser/ get the markers
of those names; they never skip: without a host they fail with one sentence.

Tests that are marked as slow run with `--all`, and where their file is named without `--fast`. What
a slow test holds, a faster one holds too in its plainest case.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import settings

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # enter() moves it to the end
from tests.hosting import inprocess  # noqa: E402
from tests.hosting.browser import find_or_install_chromium  # noqa: E402
from tests.hosting.provision import lock  # noqa: E402
from tests.hosting.server import ComfyServer  # noqa: E402
from tests.tiers import group  # noqa: E402

settings.register_profile("untimed", deadline=None)  # a busy machine is no fault
settings.load_profile("untimed")
HOST = Path(os.environ["LORA2_HOST"]) if os.environ.get("LORA2_HOST") else None
NO_HOST = (
    "This needs the host: run `python -m nox -s tests`, or set LORA2_HOST to a ComfyUI folder."
)
MARKERS = {
    "host": ("host",), "models": ("host",), "server": ("server",), "browser": ("browser", "server"),
    # of tools that measure: their tests matter where these change
    "benchmarks": ("slow",), "gpu": ("slow",), "null_gpu": ("slow",),
}  # fmt: skip
FIRST = ("browser", "server", "host")  # several workers begin with what takes longest
inprocess.enter(HOST)


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--all", action="store_true", help="slow tests too")
    parser.addoption("--fast", action="store_true", help="no slow tests, also in files named here")
    parser.addoption("--update-pictures", action="store_true", help="browser: store what is seen")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Marks each test by the folder that it lies in, and leaves slow ones out."""
    for item in items:
        for marker in MARKERS.get(tier(item), ()):
            item.add_marker(marker)
    if not config.getoption("all"):
        here = config.invocation_params.dir
        named = {(here / argument.split("::")[0]).resolve() for argument in config.args}
        named = set() if config.getoption("fast") else named
        slow = {i for i in items if i.get_closest_marker("slow") and i.path not in named}
        config.hook.pytest_deselected(items=[i for i in items if i in slow])
        items[:] = [i for i in items if i not in slow]
    if hasattr(config, "workerinput"):  # a worker of several
        items.sort(key=lambda i: FIRST.index(tier(i)) if tier(i) in FIRST else len(FIRST))


def tier(item: pytest.Item) -> str:
    """Returns the folder below tests/ that a test lies in."""
    return item.path.relative_to(Path(__file__).parent).parts[0]


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log):
    """Gives each worker groups of tests: xdist's own `loadgroup` loses the groups in pytest 9.2."""
    from xdist.scheduler import LoadScopeScheduling

    class Groups(LoadScopeScheduling):
        def _split_scope(self, nodeid: str) -> str:
            return group(nodeid)

    return Groups(config, log)


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
    with lock("chromium"):
        return find_or_install_chromium()
