"""The parts of the speed benchmark that need no host: ratios, exponents, tables, goals."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.benchmarks.speed import goals, ratios, report

seconds = st.floats(1e-3, 1e3)


def step_row(*values: float, limit: tuple[float, ...] = (1.0, 2.0), **more) -> dict:
    return {"seconds": list(values), "limit": list(limit)} | more


def results_of(**rows: dict) -> goals.Results:
    return {"steps-small": {"rows": {"limit": step_row(1.0, 2.0)} | rows}}


def test_ratios_are_paired_so_a_slow_spell_of_the_machine_cancels():
    assert ratios.paired([1.1, 11.0, 2.2], [1.0, 10.0, 2.0]).middle == pytest.approx(1.1)
    assert ratios.paired([1.1, 11.0], [1.0, 10.0]).text() == "1.10 (1.10–1.10)"


def test_rounds_that_do_not_pair_are_refused():
    with pytest.raises(ValueError):
        ratios.paired([1.0, 2.0], [1.0])


@given(st.lists(seconds, min_size=1))
def test_a_spread_holds_its_middle(values: list[float]):
    found = ratios.spread(values)
    assert found.low <= found.middle <= found.high
    assert ratios.paired(values, values) == (1.0, 1.0, 1.0)


@given(st.floats(-3, 3), seconds)
def test_the_exponent_of_a_power_law_is_found(power: float, factor: float):
    xs = [8, 16, 64, 512]
    assert ratios.exponent(xs, [factor * x**power for x in xs]) == pytest.approx(power, abs=1e-6)


def test_a_step_bears_its_share_of_the_reviews():
    row = step_row(1.0, 2.0, reviews=[0.4, 0.6])
    share = 0.5 * ratios.REVIEWS_PER_STEP
    assert share > 0
    assert ratios.step_seconds(row) == pytest.approx([1.0 + share, 2.0 + share])
    assert ratios.step_seconds(step_row(1.0, 2.0, reviews=[])) == [1.0, 2.0]


def test_a_table_has_as_many_cells_in_every_line():
    text = ratios.markdown(["", "a"], [["x", "1"], ["y", "2"]])
    assert text.splitlines()[1] == "| --- | --: |"
    assert {line.count("|") for line in text.splitlines()} == {3}


@pytest.mark.parametrize(
    ("number", "text"), [(7_962_624, "7.96 M"), (717_000, "717 k"), (2.6e9, "2.6 G"), (0, "0")]
)
def test_counts_are_short(number: float, text: str):
    assert ratios.count(number) == text


def test_goals_are_met_on_the_right_side():
    ceiling, floor = goals.Goal("", goals.of_limit, 1.2), goals.Goal("", goals.of_peft, 1.2)
    floor = goals.Goal(floor.text, floor.measure, floor.bound, least=True)
    assert ceiling.met(1.1) and not ceiling.met(1.3)
    assert floor.met(1.3) and not floor.met(1.1)


def test_variants_of_other_rounds_are_compared_through_their_limits():
    slow = step_row(4.0, 4.0, limit=(2.0, 2.0))
    results = results_of(adaptive=step_row(1.0, 2.0), PEFT=slow)
    assert goals.of_peft(results, "small") == pytest.approx(2.0)
    assert goals.of_limit(results, "small") == pytest.approx(1.0)


def test_what_failed_or_is_missing_is_not_measured():
    results = results_of(PEFT={"error": "package peft is not installed"}, adaptive=step_row(1, 2))
    assert goals.of_peft(results, "small") is None
    assert goals.of_fixed(results, "small") is None
    titles = dict.fromkeys(("small", "sd15", "sdxl"), "a model")
    assert all(len(line) == 5 for line in goals.goal_rows(results, titles))
    measured = [line for line in goals.goal_rows(results, titles) if line[4]]
    assert [line[0] for line in measured] == ["step, ours / limit"]


def test_setup_by_itself_counts_before_that_of_the_memory_run():
    memory = {"rows": {goals.BEGINS: {"setup": 2.0}, "PEFT": {"setup": 3.0}}}
    results = {"memory-small": memory}
    assert goals.setup(results, "small") == 2.0
    results["setup-small"] = {"rows": {goals.BEGINS: {"seconds": [9.0, 1.0, 1.5]}}}
    assert goals.setup(results, "small") == 1.5
    assert goals.setup(results, "small", "PEFT") == 3.0
    assert goals.setup(results, "small", "paper") is None


def test_whole_runs_are_compared_where_steps_were_not_taken_in_turn():
    rows = {"built-in": {"seconds": [9.0, 6.0]}, "adaptive": {"seconds": [5.0, 2.0]}}
    results = {"memory-small": {"rows": rows}}
    assert goals.of_built_in(results, "small") == 3.0
    in_turn = results_of(adaptive=step_row(1.0, 2.0)) | results
    assert goals.of_built_in(in_turn, "small") == 3.0
    in_turn["steps-small"]["rows"]["built-in"] = step_row(4.0, 8.0)
    assert goals.of_built_in(in_turn, "small") == 4.0
    del rows["adaptive"]
    assert goals.of_built_in(results, "small") is None


def test_the_profile_stands_beside_the_steps():
    kinds = {"matrix products": 1.5, "all else": 0.25}
    results = results_of() | {"profile-small": {"rows": {"limit": {"kinds": kinds}}}}
    assert report.profile_table(results, "small").splitlines()[2:] == [
        "| matrix products | 1.500 |",
        "| all else | 0.250 |",
        "| together | 1.750 |",
    ]
