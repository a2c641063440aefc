"""Held-out losses and losses of pictures: series of a history, also one that a stranger wrote."""

import csv
import io

import numpy as np
import pytest

import lora2_core as lora2
from lora2_core.adapter.held_out import LEVELS, HeldOut, PictureLosses
from lora2_core.adapter.history import History
from lora2_core.charts.report import page
from tests.adapter.test_history import adapter

LOSSES = [4.0, 3.0, 1.0, 2.0, 3.0]  # of steps 0, 10, 20, 30, 40


def held_out() -> HeldOut:
    found = HeldOut()
    for i, loss in enumerate(LOSSES):
        found.add(10 * i, [loss * level for level in (0.4, 0.8, 1.2, 1.6)])
    return found


def pictures() -> PictureLosses:
    """One that is never learned, one that is learned at once, and one as most are."""
    rows = [[1.0, 1.0, 1.0, 0.99, 0.98], [1.0, 0.2, 0.1, 0.1, 0.1], [1.0, 0.7, 0.5, 0.4, 0.3]]
    columns = [list(column) for column in zip(*rows, strict=True)]
    return PictureLosses([0, 25, 50, 75, 100], columns, ["never.png", "at once.png", "=most.png"])


def with_history(**series) -> History:
    plain = {"loss": [1.0] * 100, "mean_rank": [4.0] * 100}
    return History.of(adapter(100, history=plain | series))


def test_the_mean_over_the_levels_and_the_best_step():
    found = held_out()
    assert found.losses == pytest.approx(LOSSES)
    assert found.smooth() == pytest.approx([4, 7 / 3, 1.75, 2, 8 / 3])
    assert found.best == 20
    found.returned = 30
    assert found.best == 30
    assert HeldOut().best is None


@pytest.mark.parametrize("returned", [None, 20])
def test_a_history_holds_them(returned: int | None):
    found = held_out()
    found.returned = returned
    history = with_history(**found.series(), **pictures().series())
    assert history.held_out == found
    assert history.pictures.losses == pictures().losses and history.pictures.names == [
        "1",
        "2",
        "3",
    ]
    assert with_history().held_out is None is with_history().pictures


def test_a_file_holds_them(tmp_path):
    series = {"loss": [1.0] * 100, "mean_rank": [4.0] * 100} | held_out().series()
    lora = adapter(100, history=series | pictures().series(), pictures=pictures().names)
    assert History.of(lora).pictures.names == pictures().names
    lora2.save(tmp_path / "a.safetensors", lora)
    assert b"never.png" not in (tmp_path / "a.safetensors").read_bytes(), "names stay at home"
    loaded = History.of(lora2.load(tmp_path / "a.safetensors"))
    assert loaded.held_out.steps == held_out().steps and loaded.held_out.best == 20
    assert loaded.pictures.losses == pictures().losses


def test_the_least_learned_come_first():
    rows = {name: (fall, early) for name, _, fall, early in pictures().rows()}
    assert list(rows) == ["never.png", "=most.png", "at once.png"]
    assert rows["never.png"] == pytest.approx((0.02, 0))
    assert rows["at once.png"] == pytest.approx((0.9, 0.8 / 0.9))


def test_tables():
    lines = list(csv.reader(io.StringIO(pictures().csv())))
    assert lines[0] == ["picture", *(f"loss_{s}" for s in (0, 25, 50, 75, 100)), "fall", "early"]
    assert lines[2][0] == "'=most.png", "no formula"
    lines = list(csv.reader(io.StringIO(with_history(**held_out().series()).csv())))
    assert lines[0] == ["step", "loss", "mean_rank", "validation_loss"]
    assert lines[1] == ["0", "", "", "4"] and lines[2] == ["1", "1", "4", ""]
    assert lines[11] == ["10", "1", "4", "3"] and {len(line) for line in lines} == {4}


@pytest.mark.parametrize(
    "change",
    [
        {"validation_step": [0, 10]}, {"validation_step": "0123"}, {"validation_loss": None},
        {"validation_step": [0, 10, 10, 30, 40]}, {"validation_step": [0, 1.5, 2, 3, 4]},
        {"validation_loss_2": [float("nan")] * 5}, {"validation_loss_4": []},
        {"validation_step": [-1, 0, 1, 2, 3]},
    ],
    ids=str,
)  # fmt: skip
def test_what_a_stranger_wrote_is_left_out(change: dict):
    assert with_history(**(held_out().series() | change)).held_out is None


@pytest.mark.parametrize(
    "change", [{"picture_step": [0]}, {"picture_loss_2": [1.0]}, {"picture_step": ["0"] * 5}]
)
def test_pictures_that_a_stranger_wrote_are_left_out(change: dict):
    assert with_history(**(pictures().series() | change)).pictures is None


def test_the_page_has_them():
    """Whatever the names are: no formula, no other language of matplotlib."""
    series = {"loss": [1.0] * 100, "mean_rank": [4.0] * 100}
    plain = page(adapter(100, history=series), "owl")
    more = page(adapter(100, history=series | held_out().series()), "owl")
    names = ["$\\frac{1}$", "<b>", "x" * 300]
    lora = adapter(100, history=series | held_out().series() | pictures().series(), pictures=names)
    whole = page(lora, "owl", {"after": [np.full((8, 8, 3), 255, np.uint8)]})
    assert more.shape == plain.shape and (more != plain).any()
    assert whole.shape[0] > more.shape[0]
    assert len(held_out().levels[0]) == LEVELS
