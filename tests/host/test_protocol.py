"""The protocol from one command: a ComfyUI without a window trains, draws and scores; a kill in the
middle repeats nothing.
"""

import csv
import json
import os
import signal
import subprocess
import sys
import time

import pytest
import torch
from transformers import ViTConfig, ViTImageProcessor, ViTModel

from tests.hosting.server import REPOSITORY
from tests.protocol.data import write_data

PLAN = {
    "resolution": 32, "prompts": 2, "images": 2,
    "sampling": {"steps": 3, "cfg": 4.0, "width": 32, "height": 32},
    "training": {"steps": 4, "batch_size": 2, "learning_rate": 5e-3},
    "methods": {"no adapter": None, "LoRA 2": {"mode": "fixed", "target_rank": 2}},
}  # fmt: skip


@pytest.fixture
def command(tmp_path):
    """The command line on two subjects, judged by a small random ViT."""
    torch.manual_seed(0)
    size = {"image_size": 32, "patch_size": 8, "hidden_size": 32, "num_hidden_layers": 1}
    with torch.inference_mode(False):
        model = ViTModel(ViTConfig(**size, num_attention_heads=2, intermediate_size=64))
        model.save_pretrained(tmp_path / "vit")
    ViTImageProcessor(size={"height": 32, "width": 32}).save_pretrained(tmp_path / "vit")
    (tmp_path / "plan.json").write_text(json.dumps(PLAN))
    data = write_data(tmp_path / "data", ("fox", "owl"), 2)
    return [
        sys.executable, "-m", "lora2_core.protocol", "--plan", str(tmp_path / "plan.json"),
        "--data", str(data), "--out", str(tmp_path / "out"), "--dino-folder", str(tmp_path / "vit"),
        "--base-directory", str(tmp_path / "base"),
    ]  # fmt: skip


def rows(tmp_path) -> list[dict]:
    path = tmp_path / "out" / "trials.csv"
    if not path.is_file():
        return []
    with open(path, encoding="utf-8") as file:
        return [row for row in csv.DictReader(file) if row["score_seconds"]]


def run(command, timeout: float = 600) -> subprocess.CompletedProcess:
    environment = os.environ | {"LORA2_DEVICE": "cpu"}
    return subprocess.run(
        command, cwd=REPOSITORY, env=environment, capture_output=True, text=True, timeout=timeout
    )


def check_finished(tmp_path, done: subprocess.CompletedProcess, trials: int) -> None:
    """The table and the files of a whole protocol, whose last start did so many trials."""
    assert done.returncode == 0, done.stderr[-2000:]
    table = rows(tmp_path)
    assert len(table) == 4
    assert {(row["subject"], row["method"]) for row in table} == {
        (subject, method) for subject in ("fox", "owl") for method in PLAN["methods"]
    }
    for row in table:
        assert -1 <= float(row["dino"]) <= 1 and not row["clip_t"]
        assert (float(row["megabytes"]) > 0) == (row["method"] == "LoRA 2") == bool(row["loss"])
    assert "| LoRA 2 |" in done.stdout and f"1/{trials} " in done.stderr
    pictures = sorted((tmp_path / "out" / "trials").rglob("*.png"))
    assert len(pictures) == 4 * 2 * 2
    assert len(list((tmp_path / "out").rglob("adapter.safetensors"))) == 2


@pytest.mark.slow
def test_a_second_start_has_nothing_to_do(command, tmp_path):
    check_finished(tmp_path, run(command), 4)
    table = rows(tmp_path)
    second = run(command)
    assert rows(tmp_path) == table and "comfy" not in second.stderr.lower()


@pytest.mark.slow
def test_a_kill_in_the_middle_repeats_nothing(command, tmp_path):
    environment = os.environ | {"LORA2_DEVICE": "cpu"}
    first = subprocess.Popen(command, cwd=REPOSITORY, env=environment, start_new_session=True)
    limit = time.monotonic() + 300
    while not rows(tmp_path) and first.poll() is None and time.monotonic() < limit:
        time.sleep(0.05)
    os.killpg(first.pid, signal.SIGKILL)
    first.wait()
    begun = rows(tmp_path)
    assert 1 <= len(begun) < 4
    check_finished(tmp_path, run(command), 4 - len(begun))
    assert rows(tmp_path)[: len(begun)] == begun


def test_what_is_missing_is_one_sentence(command, tmp_path):
    wrong = [*command, "--comfyui", str(tmp_path)]
    done = subprocess.run(wrong, cwd=REPOSITORY, capture_output=True, text=True)
    assert done.returncode == 1 and "is no ComfyUI folder" in done.stderr
    assert "Traceback" not in done.stderr
