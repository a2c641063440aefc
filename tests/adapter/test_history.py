"""How a training went, as numbers, a table, and one page."""

import csv
import io
import json
import sys
from dataclasses import replace

import numpy as np
import pytest
import torch

import lora2_core as lora2
from lora2_core.adapter import history as module
from lora2_core.adapter.history import History, check_tensorboard
from lora2_core.adapter.lora import LoraLayer, RankedLora
from lora2_core.adapter.origin import Origin
from lora2_core.charts.report import page


def adapter(steps: int = 500, **info) -> RankedLora:
    """Two blocks of four layers and a history of falling losses."""
    names = [f"input_blocks.{b}.1.x.attn{a}.to_q" for b in (4, 5) for a in (1, 2)]
    layers = {name: LoraLayer(torch.ones(6, 2), torch.ones(2, 6)) for name in names}
    series = {
        "loss": [1 / (i + 1) for i in range(steps)],
        "mean_rank": [20 - 10 * i / max(1, steps - 1) for i in range(steps)],
    }
    return RankedLora(layers, Origin.from_info({"history": series, "steps": steps} | info))


def test_every_step_is_a_line():
    lines = list(csv.reader(io.StringIO(History.of(adapter()).csv())))
    assert lines[0] == ["step", "loss", "mean_rank"] and len(lines) == 501
    assert lines[1] == ["1", "1", "20"] and lines[-1] == ["500", "0.002", "10"]


@pytest.mark.parametrize("steps", [1, 2, 199, 200, 201, 777])
def test_a_file_tells_its_steps(tmp_path, steps: int):
    """At most 200 of them, at their own places."""
    lora2.save(tmp_path / "a.safetensors", adapter(steps))
    found = History.of(lora2.load(tmp_path / "a.safetensors"))
    assert len(found.steps) == min(steps, 200)
    assert found.steps[0] == 1 and found.steps[-1] == steps
    assert found.steps == sorted(set(found.steps))
    assert found.losses == pytest.approx([1 / step for step in found.steps], rel=1e-5)


def test_the_running_mean_is_that_of_the_graph():
    """web/train_history.js: the first loss, then 12 % of each new one."""
    found = History([1, 2, 3], [1.0, 0.0, 1.0], [4.0] * 3).smooth()
    assert found == pytest.approx([1.0, 0.88, 0.8944])


@pytest.mark.parametrize(
    "told",
    [
        {}, {"loss": []}, {"loss": [1.0]}, {"loss": "12", "mean_rank": "12"},
        {"loss": [1.0, "x"], "mean_rank": [1, 1]}, {"loss": [float("nan")], "mean_rank": [1.0]},
        {"loss": {"a": 1}, "mean_rank": [1]}, {"loss": [[1.0]], "mean_rank": [1.0]},
    ],
    ids=json.dumps,
)  # fmt: skip
def test_an_adapter_that_tells_nothing_is_one_sentence(told: dict):
    with pytest.raises(ValueError, match="tells nothing of its training: connect one from"):
        History.of(adapter(history=told))


@pytest.mark.parametrize("said", ["-5", "1e9", "x" * 99, "999999999", "", None, "٣"])
def test_a_foreign_count_of_steps_does_no_harm(said):
    lora = adapter(5, metadata={"ss_steps": said})
    run = replace(lora.origin.run, steps=None)
    lora = replace(lora, origin=replace(lora.origin, run=run))
    assert History.of(lora).steps == [1, 2, 3, 4, 5]


def test_the_page_has_what_there_is():
    white = np.full((16, 16, 3), 255, np.uint8)
    red = white * np.array([1, 0, 0], np.uint8)
    plain = page(adapter(), "$owl$ <b>")
    whole = page(adapter(), "owl", {"before": [white], "after": [red] * 9})
    assert plain.dtype == np.uint8 and plain.shape[1:] == whole.shape[1:] == (1024, 3)
    assert whole.shape[0] > plain.shape[0] > 500
    is_red = (whole == [255, 0, 0]).all(-1)
    assert not (plain == [255, 0, 0]).all(-1).any()
    columns = np.flatnonzero(is_red.any(0))
    assert 1 + (np.diff(columns) > 1).sum() == 4, "no more than four"
    assert page(adapter(1), "one step").shape[1] == 1024


def test_without_tensorboard_one_sentence_says_so(monkeypatch):
    monkeypatch.setattr(module, "find_spec", lambda name: None)
    with pytest.raises(ValueError, match="needs the package tensorboard, which is not installed"):
        check_tensorboard()


def test_scalars_go_to_tensorboards_own_writer(monkeypatch, tmp_path):
    """Its interface only: the package is optional and not among what tests install."""
    written, folders = [], []

    class Writer:
        def __init__(self, folder: str):
            folders.append(folder)

        def __enter__(self):
            return self

        def __exit__(self, *_):
            written.append("closed")

        def add_scalar(self, *scalar):
            written.append(scalar)

    stand_in = type(sys)("torch.utils.tensorboard")
    stand_in.SummaryWriter = Writer
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", stand_in)
    monkeypatch.setattr(module, "find_spec", lambda name: name == "tensorboard")
    module.write_tensorboard(History([1, 3], [2.0, 1.0], [8.0, 4.0]), tmp_path / "a")
    assert folders == [str(tmp_path / "a")] and written[-1] == "closed"
    assert written[:3] == [("loss", 2.0, 1), ("loss_mean", 2.0, 1), ("mean_rank", 8.0, 1)]
    assert written[3] == ("loss", 1.0, 3)
