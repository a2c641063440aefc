"""The looks that a view is tested in: whose front end, its renderer, its palette."""

from __future__ import annotations

from itertools import product
from typing import NamedTuple

from tests.browser.front_end import SAND
from tests.hosting.front_ends import NEWEST, OLDEST, PINNED

RENDERERS, THEMES = ("classic", "vue"), ("dark", "light", SAND["id"])


class Look(NamedTuple):
    """A front end of tests/hosting/front_ends.py, "classic" or "vue", a palette."""

    front_end: str
    renderer: str
    theme: str


FULL = [Look(*look) for look in product((PINNED, NEWEST, OLDEST), RENDERERS, THEMES)]
# The fast tests see everything in the host's own front end, and what each renderer draws in another
# way in the newest one too.
FIRST, OTHER = FULL[0], FULL[FULL.index(Look(NEWEST, "vue", "light"))]
ONE_THEME = [(look.renderer, look.theme) for look in (FIRST, OTHER)]


def looks(themes: bool) -> list[Look]:
    """Returns the looks to test; without `themes`, each renderer of each front end in one theme."""
    return [x for x in FULL if themes or (x.renderer, x.theme) in ONE_THEME]
