"""The GPU script says so where there is no card, and fills its tables where there is one."""

import json

import torch

from tests.gpu import run_all


def test_without_a_card_it_says_so(monkeypatch, capsys):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert run_all.main([]) == {}
    assert capsys.readouterr().out == f"{run_all.NO_CARD}\n"


def test_with_a_card_it_prints_and_writes_what_it_found(monkeypatch, tmp_path, capsys):
    def row_of(case):
        if case.model == "flux" and case.dtype == "bf16":
            return {"error": "OutOfMemoryError"}
        planned = None if case.mode == "limit" else 9.0
        return {"seconds": 0.1 if case.mode == "limit" else 0.12, "peak": 8.8, "planned": planned}

    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda: "a card")
    monkeypatch.setattr(run_all, "row_of", row_of)
    run_all.main([str(tmp_path)])
    shown = capsys.readouterr().out
    assert "| SDXL fp16, 512 px, fixed 64 | 0.120 | 1.20 | 8.80 | 9.00 |" in shown
    assert "| Flux bf16, 1024 px, fixed 64 | OutOfMemoryError |" in shown
    assert len(json.loads((tmp_path / "gpu.json").read_text())["rows"]) == len(run_all.CASES)
