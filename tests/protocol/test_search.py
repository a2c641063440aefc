"""Searches: what is drawn, what counts as better, and the search on a local Ray Tune."""

import json
import os

import numpy as np
import pytest

from lora2_core.protocol.dreambooth import read_subjects
from lora2_core.protocol.plan import Plan, trials
from lora2_core.protocol.search import SEARCHES, Search, drawn
from lora2_core.protocol.search_report import write_search_report
from lora2_core.protocol.table import Table
from tests.protocol.beside_ray import printed
from tests.protocol.data import write_data

SPACE = {"mode": ["fixed", "adaptive"], "learning_rate": {"log": [1e-4, 1e-1]}}


def test_more_settings_begin_with_those_of_fewer():
    few, many = (list(Search(SPACE, count=count).draw().items()) for count in (5, 40))
    assert len(many) == 40 and many[:5] == few
    assert few != list(Search(SPACE, count=5, seed=1).draw().items())
    rates = [own["learning_rate"] for _, own in many]
    assert all(1e-4 <= rate <= 1e-1 for rate in rates)
    assert 8 < sum(rate < 1e-2 for rate in rates) < 36, "even on a logarithmic scale"
    assert {own["mode"] for _, own in many} == {"fixed", "adaptive"}
    assert all(str(own["learning_rate"]) in name for name, own in many)


def test_a_small_space_is_tried_whole():
    search = Search({"target_rank": [2, 4], "mode": ["fixed", "adaptive"]}, count=50)
    assert len(search.draw()) == 4


@pytest.mark.parametrize(("kind", "least", "most"), [("uniform", 1, 4), ("log", 1, 16)])
def test_a_range_between_whole_numbers_is_of_whole_numbers(kind, least, most):
    random = np.random.default_rng(0)
    found = {drawn({kind: [least, most]}, random) for _ in range(500)}
    assert {least, most} <= found and all(isinstance(value, int) for value in found)
    ends = least + 0.12345, most + 0.12345
    found = [drawn({kind: list(ends)}, random) for _ in range(500)]
    assert all(ends[0] <= value <= ends[1] for value in found)


@pytest.mark.parametrize(
    ("told", "sentence"),
    [
        ({"settings": {}}, "no settings"),
        ({"settings": SPACE, "cuont": 3}, "'cuont', which no search has"),
        ({"settings": {"steps": 3}}, "The values to try for steps are 3: give a list"),
        ({"settings": {"steps": {"log": [0, 3]}}}, "the least steps is 0"),
        ({"settings": {"steps": {"uniform": [4, 3]}}}, "the most steps is 3"),
        ({"settings": SPACE, "objective": {"dyno": 1}}, "objective has no score"),
        ({"settings": SPACE, "objective": {"dino": 1, "mb": -1}}, "objective has 'mb'"),
        ({"settings": SPACE, "count": 0}, "count is 0"),
        ([1], "is no JSON object"),
    ],
)
def test_a_faulty_search_is_refused(tmp_path, told, sentence):
    path = tmp_path / "search.json"
    path.write_text(json.dumps(told))
    with pytest.raises(ValueError, match=sentence):
        Search.read(str(path))


def test_every_preset_is_a_search():
    assert [path.stem for path in SEARCHES.glob("*.json")] == ["playground"]
    assert len(Search.read("playground").draw()) == 12
    with pytest.raises(ValueError, match="'sdlx' can't be read.*playground"):
        Search.read("sdlx")


def test_an_objective_without_its_encoder_is_refused():
    plan = Plan(methods={"no adapter": None}, dino_folder="somewhere")
    Search(SPACE).check(plan)
    with pytest.raises(ValueError, match="clip_t, which needs an encoder: give --clip-folder"):
        Search(SPACE, {"dino": 1, "clip_t": 1}).check(plan)


def test_the_report_ranks_what_was_tried_on_the_same_subjects(tmp_path):
    data = write_data(tmp_path / "data", ("owl", "fox"), 2)
    plan = Plan(methods={"no adapter": None}, training={"steps": 9}, resolution=32)
    search = Search({"target_rank": [2, 4, 8]}, {"dino": 1, "megabytes": -0.05}, count=3)
    tried = search.applied(plan)
    wanted = trials(tried, read_subjects(data))
    table = Table(tmp_path / "trials.csv")
    report = search, tried, plan, table, wanted, tmp_path
    assert "No trial" in write_search_report(*report)
    values = {2: [0.2, 0.4], 4: [0.9], 8: [0.5, 0.7]}  # that of rank 4 was stopped
    for trial in wanted:
        rank = tried.choices(trial.method)["target_rank"]
        if values[rank]:
            table.add(trial, {"megabytes": rank / 2, "dino": values[rank].pop(0)})
    text = write_search_report(*report)
    rows = [line for line in text.splitlines() if line.startswith("|")][2:]
    assert rows == [
        "| 8 | 2 of 2 | 0.4000 | 0.6000 | 4.0000 |",
        "| 2 | 2 of 2 | 0.2500 | 0.3000 | 1.0000 |",
        "| 4 | 1 of 2 | 0.8000 | 0.9000 | 2.0000 |",
    ]
    assert "3 of 3 settings tried with 5 trials" in text
    found = Plan.read(str(tmp_path / "found.json"))
    assert list(found.methods) == ["no adapter", "target_rank 8", "target_rank 2"]
    again = set(trials(found, read_subjects(data)))
    assert len(again & set(table.rows)) == 4, "its trials are those of the search"
    assert os.stat(tmp_path / "search.png").st_size > 300


@pytest.mark.slow
def test_a_search_stops_what_is_worse_and_a_second_start_repeats_nothing():
    told = printed("tests.protocol.tune", package="pyarrow", seconds=600)
    for sentence in (
        "1 setting failed, 15 have rows",
        "the best setting is found",
        "1 worker killed, its trial alone begun twice",
        "a second start: what failed is tried",
    ):
        assert sentence in told
