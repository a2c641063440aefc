"""A short form of `nox -s clients`."""

import json
import os
import subprocess
import sys

import pytest

from lora2_core.files import saving
from tests.hosting.provision import cache_folder
from tests.hosting.server import REPOSITORY


def test_comfyui_reads_every_layer_of_every_form_of_every_structure():
    from tests.clients.__main__ import results

    rows = results(("ComfyUI",), ("SD1.5", "SDXL", "Flux", "Wan"))
    assert len(rows) == 19 and not any(row["wrong"] for row in rows)
    assert {row["layers"] for row in rows if row["shape"] == "SDXL"} == {175}


@pytest.mark.slow
def test_every_client_reads_every_layer(tmp_path):
    """In a process of its own: the packages lie beside the shared environment."""
    folder = cache_folder() / "clients"
    assert (folder / "diffusers").is_dir(), "run `nox -s tests -- PATH`, which brings diffusers"
    command = [sys.executable, "-m", "tests.hosting.inprocess", "tests.clients"]
    done = subprocess.run(
        [*command, str(tmp_path / "rows.json"), "diffusers + peft", "lycoris-lora"],
        cwd=REPOSITORY, env=os.environ | {"PYTHONPATH": str(folder), "HF_HUB_OFFLINE": "1"},
        capture_output=True, text=True, timeout=900,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    rows = json.loads((tmp_path / "rows.json").read_text())
    assert len(rows) > 20 and sum(row["layers"] for row in rows) > 1500


def test_a_wrong_scale_is_seen(monkeypatch):
    """These tests prove nothing unless a file of another update is found out."""
    from tests.clients.__main__ import results

    right = saving.to_tensors

    def wrong(*arguments):
        return {k: 2 * t if k.endswith(".alpha") else t for k, t in right(*arguments).items()}

    monkeypatch.setattr(saving, "to_tensors", wrong)
    rows = {row["form"]: row for row in results(("ComfyUI",), ("SD1.5",))}
    assert len(rows["kohya"]["wrong"]) == 133 and not rows["comfy"]["wrong"]
