"""What the workers of a run keep together, and which cases of a grid are fast."""

import pytest

from tests.browser.looks import FIRST, OTHER
from tests.tiers import each_once, fast, group


def slow(cases: list) -> list[bool]:
    return [bool(getattr(case, "marks", ())) for case in cases]


@pytest.mark.parametrize(
    ("name", "together"),
    [
        ("tests/ranks/test_rank.py::test_a[x-classic-y]", "tests/ranks/test_rank.py"),
        ("tests/server/test_info.py::test_faults[a]", "server"),
        ("tests/browser/test_examples.py::test_there_are_examples", "browser pinned"),
        (f"tests/browser/test_a.py::test_a[{'-'.join(FIRST)}]", "browser pinned"),
        (f"tests/browser/test_a.py::test_a[{'-'.join(OTHER)}-a b]", "browser newest"),
        (f"tests/browser/test_a.py::test_a[LoRA2 SDXL-{'-'.join(OTHER)}]", "browser newest"),
    ],
)
def test_workers_keep_what_shares_a_server(name: str, together: str):
    assert group(name) == together


def test_each_value_is_fast_once():
    assert slow(fast("abc")) == [False, True, True]
    assert slow(fast("abc", "b", "c")) == [True, False, False]
    few = [case.values for case in each_once("abc", "xy") if not case.marks]
    assert few == [("a", "x"), ("b", "y"), ("c", "x")]
