"""docs/reliability.md holds what the commands printed, for every figure."""

import json

from tests.reliability.figures import RESULTS, Figure, keep, kept
from tests.reliability.matrix import figure_of, results
from tests.reliability.table import GOALS, PAGE, table, written


def test_the_page_has_the_table_of_the_results():
    page = PAGE.read_text(encoding="utf-8")
    assert written(page) == page


def test_every_row_is_one_line_with_five_cells():
    rows = table().splitlines()
    assert len(rows) >= 2 + len(GOALS)
    assert all(row.count("|") == 6 for row in rows)


def test_figures_are_kept_and_found_again(tmp_path, monkeypatch, capsys):
    from tests.reliability import figures

    monkeypatch.setattr(figures, "RESULTS", tmp_path / "results")
    figure = Figure(3, "10 of 10", False)
    keep("fuzz", [figure])
    assert capsys.readouterr().out == "figure  3: NOT MET: 10 of 10\n"
    assert figures.kept() == {3: [(figure, "nox -s fuzz")]}


def test_the_commands_are_sessions_of_nox():
    text = (RESULTS.parents[2] / "noxfile.py").read_text(encoding="utf-8")
    for rows in kept().values():
        for _, command in rows:
            assert f"def {command.split()[-1].replace('-', '_')}(" in text, command
    for path in RESULTS.glob("*.json"):
        assert json.loads(path.read_text(encoding="utf-8"))["figures"]


def test_a_host_that_fails_names_the_tests(tmp_path):
    report = tmp_path / "report.xml"
    case = '<testcase name="{}">{}</testcase>'
    cases = ("a", ""), ("b[1]", "<failure/>"), ("b[2]", "<error/>"), ("c", "<skipped/>")
    inside = "".join(case.format(*each) for each in cases)
    report.write_text(f"<testsuites><testsuite>{inside}</testsuite></testsuites>")
    figure = figure_of("0.16.3", *results(report))
    assert figure.measured.endswith(": 1 tests passed, 2 failed (b)") and not figure.met
    assert figure_of("0.16.3", 3, []).met and not figure_of("0.16.3", 0, []).met
