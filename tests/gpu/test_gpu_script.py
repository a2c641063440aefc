"""The GPU script runs from end to end, here on a tiny model."""

import json

from tests.gpu import run_all


def test_the_script_measures_every_case_and_writes_what_it_found(tmp_path, capsys):
    results = run_all.main([str(tmp_path), "--quick"])
    assert [row["name"] for row in results["steps"]] == [c.name for c in run_all.cases([512])]
    assert all(row["ratio"] > 0 for row in results["steps"])
    assert {row["name"] for row in results["runs"]} == {"fixed, 20 steps", "adaptive, 20 steps"}
    stored = json.loads((tmp_path / "gpu.json").read_text())
    assert len(stored["steps"]) == len(results["steps"])
    assert "over the limit" in capsys.readouterr().out
