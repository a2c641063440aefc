"""The null GPU runs our training in the real host, and counts."""

import pytest

from tests.null_gpu import building
from tests.null_gpu.__main__ import RAM, case_of, markdown, row_of

REASON = building.why_not()
needs_it = pytest.mark.skipif(REASON is not None, reason=REASON or "")
FLUX = "model=small flux", "dtype=bf16", "pixels=128"


@needs_it
@pytest.mark.parametrize("mode", ["limit", "fixed", "adaptive"])
def test_steps_are_counted(mode):
    row = row_of(case_of(["model=small", "pixels=128", f"mode={mode}", "rank=8"]))
    assert "error" not in row
    assert row["steps"] == 5
    assert row["launches"] > 500
    assert row["seconds"] > 0


@needs_it
def test_a_card_that_is_too_small_runs_out_of_memory_or_is_refused_first():
    row = row_of(case_of([*FLUX[:2], "pixels=1024", "gigabytes=0.7", "mode=limit"]))
    assert "out of memory" in row["error"].lower()
    row = row_of(case_of([*FLUX, "gigabytes=0.7"]))
    assert "needs" in row["error"] and "rank" in row["error"] and row["steps"] == 0


@needs_it
@pytest.mark.parametrize("name", [name for name, case in RAM.items() if case.model == "sd15"])
def test_weights_in_ram_are_fetched_ahead_in_order(name):
    row = row_of(RAM[name])
    assert "error" not in row and row["ahead"] > 1000 and row["peak"] * 1e9 <= row["beside"]
    unordered = row["unordered"] - row.get("of_preview", 0)
    assert unordered > 1000 if RAM[name].broken else unordered == 0
    if RAM[name].preview:  # the adapter is there by now, and needs no room once more
        assert row["after_preview"] == pytest.approx(row["model"], rel=0.1)


def test_cases_are_checked():
    with pytest.raises(ValueError, match="no field"):
        case_of(["modle=sdxl"])
    assert case_of(["moving=True", "gigabytes=8"]).moving
    assert markdown([["a", "b"], ["1", "2"]]).splitlines() == [
        "| a | b |",
        "|---|---|",
        "| 1 | 2 |",
    ]
