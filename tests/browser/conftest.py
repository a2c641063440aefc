"""Pages for the browser tests; `--full` runs them in every renderer and theme."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser, sync_playwright

from tests.browser.front_end import LOOKS, FrontEnd
from tests.hosting.browser import launch_args
from tests.hosting.server import ComfyServer

QUICK = 2  # of LOOKS, which cover both renderers and both themes
WINDOW = {"width": 1900, "height": 960}


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Fills in `look`, (renderer, theme)."""
    if "look" in metafunc.fixturenames:
        looks = LOOKS if metafunc.config.getoption("full") else LOOKS[:QUICK]
        names = ["-".join(look) for look in looks]
        metafunc.parametrize("look", looks, ids=names, indirect=True, scope="module")


@pytest.fixture(scope="module")
def look(request: pytest.FixtureRequest) -> tuple[str, str]:
    """(renderer, theme)."""
    return request.param


@pytest.fixture(scope="package")
def browser(chromium: Path) -> Iterator[Browser]:
    """Closed after the last browser test: Playwright keeps an event loop running meanwhile, beside
    which no other test could use one of its own."""
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=launch_args())
        yield browser
        browser.close()


@pytest.fixture
def front_end(server: ComfyServer, browser: Browser) -> Iterator[FrontEnd]:
    """A fresh page."""
    context = browser.new_context(viewport=WINDOW)
    yield FrontEnd(context.new_page(), server)
    context.close()


@pytest.fixture(scope="module")
def page_of_look(server: ComfyServer, browser: Browser, look) -> Iterator[FrontEnd]:
    """One page for a module's tests, in one look; downloads and the clipboard work."""
    context = browser.new_context(viewport=WINDOW, accept_downloads=True)
    context.grant_permissions(["clipboard-read", "clipboard-write"], origin=server.address)
    front_end = FrontEnd(context.new_page(), server)
    front_end.wear(*look)
    yield front_end
    context.close()
