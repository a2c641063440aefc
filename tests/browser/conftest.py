"""Pages for the browser tests; `--all` runs them in every front end, renderer and theme."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
from playwright.sync_api import Browser, BrowserContext, sync_playwright

from tests.browser.front_end import FrontEnd
from tests.browser.looks import FIRST, OTHER, Look, looks
from tests.hosting.browser import launch_args
from tests.hosting.front_ends import PINNED, arguments
from tests.hosting.server import ComfyServer

# the graph, and whose run was the last: what another workflow's run gives is not shown
FORGET = """() => {
    app.graph.clear();
    app.api.dispatchCustomEvent('execution_start', { prompt_id: 'of no workflow' });
}"""
WINDOW = {"width": 1900, "height": 960}


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Fills in `look`; in every theme where the module is about colours: EVERY_THEME. The fast look
    is FIRST, and where the module says so (NEWEST_TOO) OTHER; a test with the mark `one_look` has
    no others.
    """
    if "look" not in metafunc.fixturenames:
        return
    module = metafunc.module
    fast = [FIRST, OTHER] if getattr(module, "NEWEST_TOO", False) else [FIRST]
    wanted = looks(themes=getattr(module, "EVERY_THEME", False))
    if metafunc.definition.get_closest_marker("one_look"):
        fast = wanted = [FIRST]
    cases = [
        pytest.param(look, id="-".join(look), marks=[] if look in fast else pytest.mark.slow)
        for look in wanted
    ]
    metafunc.parametrize("look", cases, indirect=True, scope="package")


@pytest.fixture(scope="package")
def look(request: pytest.FixtureRequest) -> Look:
    """What a page looks like: all tests in one look, then those in the next."""
    return request.param


@pytest.fixture(scope="package")
def browser(chromium: Path) -> Iterator[Browser]:
    """Closed after the last browser test: Playwright keeps an event loop running meanwhile, beside
    which no other test could use one of its own."""
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=launch_args())
        yield browser
        browser.close()


@pytest.fixture(scope="package")
def serving(request: pytest.FixtureRequest, host: Path) -> Iterator[Callable[[str], ComfyServer]]:
    """Gives the server of a front end; each is started once, when it is asked for."""
    running: dict[str, ComfyServer] = {}
    with ExitStack() as stack:

        def of(front_end: str) -> ComfyServer:
            if front_end == PINNED:
                return request.getfixturevalue("server")
            if front_end not in running:
                server = ComfyServer(host=host, arguments=arguments(front_end))
                running[front_end] = stack.enter_context(server)
            return running[front_end]

        yield of


@pytest.fixture(scope="package")
def context_of_look(serving, browser: Browser, look: Look) -> Iterator[BrowserContext]:
    """Where the pages of a look are opened: what one has loaded, the next has in its cache."""
    context = browser.new_context(viewport=WINDOW, accept_downloads=True)
    address = serving(look.front_end).address
    context.grant_permissions(["clipboard-read", "clipboard-write"], origin=address)
    yield context
    context.close()


@pytest.fixture(scope="package")
def shared_page(serving, context_of_look: BrowserContext, look: Look) -> Iterator[FrontEnd]:
    """One page in one look: to load another takes as long as ten tests."""
    front_end = FrontEnd(context_of_look.new_page(), serving(look.front_end))
    front_end.wear(look.renderer, look.theme)
    yield front_end
    front_end.page.close()


@pytest.fixture(scope="module")
def page_of_look(shared_page: FrontEnd) -> FrontEnd:
    """The page of a look without what other modules left in it; downloads, the clipboard work."""
    shared_page.page.evaluate(FORGET)
    shared_page.complaints.clear()
    return shared_page
