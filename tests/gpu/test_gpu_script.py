"""The GPU script says so where there is no card, and fills its tables where there is one."""

import json
from dataclasses import replace

import pytest
import torch

from tests.gpu import alike, run_all, servers


@pytest.fixture
def card(monkeypatch):
    """Torch says that there is a card."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda: "a card")


def test_without_a_card_it_says_so(monkeypatch, capsys):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert run_all.main([]) == {}
    assert capsys.readouterr().out == f"{run_all.NO_CARD}\n"


def test_with_a_card_it_prints_and_writes_what_it_found(card, monkeypatch, tmp_path, capsys):
    def row_of(case):
        if case.model == "flux" and case.dtype == "bf16":
            return {"error": "OutOfMemoryError"}
        planned = None if case.mode == "limit" else 9.0
        return {"seconds": 0.1 if case.mode == "limit" else 0.12, "peak": 8.8, "planned": planned}

    monkeypatch.setattr(run_all, "row_of", row_of)
    run_all.main([str(tmp_path), "--only", "steps"])
    shown = capsys.readouterr().out
    assert "| SDXL fp16, 512 px, fixed 64 | 0.120 | 1.20 | 8.80 | 9.00 |" in shown
    assert "| Flux bf16, 1024 px, fixed 64 | OutOfMemoryError |" in shown
    found = json.loads((tmp_path / "gpu.json").read_text())
    assert len(found["steps"]["rows"]) == len(run_all.CASES)


def test_parts_are_added_to_those_of_before(card, monkeypatch, tmp_path, capsys):
    row = {"worst layer": 0.0012, "idle": 0, "loss": 0.0, "close": True}
    monkeypatch.setattr(run_all, "result", lambda module, text: row)
    monkeypatch.setattr(servers, "rows", lambda: {"--fast": {"error": "it does not start"}})
    run_all.main([str(tmp_path), "--only", "alike"])
    run_all.main([str(tmp_path), "--only", "servers"])
    shown = capsys.readouterr().out
    assert "| Flux, weights in RAM | 0.0012 | 0 | yes |" in shown
    assert "| --fast | it does not start |" in shown
    found = json.loads((tmp_path / "gpu.json").read_text())
    assert found["alike"].keys() == alike.CHECKS.keys() and "--fast" in found["servers"]


def test_runs_on_two_devices_are_compared(monkeypatch):
    check = replace(alike.FLUX, device="cpu")
    same = alike.compared(check)
    assert same == {"worst layer": 0.0, "loss": 0.0, "idle": 0, "close": True}
    learned, seen = alike.learned, []

    def other(wanted, device):
        seen.append(device)
        lora, losses = learned(replace(wanted, steps=3 + len(seen)), device)
        return lora, losses[:3]

    monkeypatch.setattr(alike, "learned", other)
    assert not alike.compared(check)["close"], "a step more on the second device"


def test_servers_are_asked_for_the_adapter_alone():
    wanted = servers.graph()
    assert set(wanted) == {"model", "pictures", "dataset", "train", "save"}
