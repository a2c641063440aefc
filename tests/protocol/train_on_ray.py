"""A job on Ray: two folders at a time, one of them stopped before; printed by `test_on_ray.py`.

A worker is killed in the middle of its training: another goes on from the checkpoint.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import tempfile
import threading
import time
from pathlib import Path

from lora2_core import load
from lora2_core.protocol import train
from tests.protocol.data import write_data

JOB = {
    "checkpoint": "playground", "folders": ["owl", "fox"], "dataset": {"resolution": 32},
    "train": {"steps": 60, "learning_rate": 1e-2, "target_rank": 4, "max_rank": 8, "targets":
              "attn2", "batch_size": 2},
    "checkpoint_every": 3,
}  # fmt: skip


def workers() -> list[int]:
    """The processes of Ray that train, children of children of this one."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            line = (folder / "cmdline").read_bytes().replace(b"\0", b" ")
        except OSError:
            continue
        if line.startswith(b"ray::execute"):
            found.append(int(folder.name))
    return found


def kill_one(out: Path) -> None:
    """Kills the first worker that has written a checkpoint."""
    for _ in range(1200):
        if any((out / "lora2" / "checkpoints").glob("*/step-*.safetensors")):
            for process in workers()[:1]:
                os.kill(process, signal.SIGKILL)
                sys.stdout.write("a worker is killed\n")
                return
        time.sleep(0.1)


def main(folder: Path) -> None:
    os.environ["LORA2_DEVICE"] = "cpu"
    write_data(folder, ("owl", "fox"), 4)
    (folder / "job.json").write_text(json.dumps(JOB))
    arguments = [str(folder / "job.json"), "--base-directory", str(folder / "base")]
    threading.Thread(target=kill_one, args=[folder / "job"], daemon=True).start()
    text = train.run([*arguments, "--workers", "2"])
    first = {name: (folder / "job" / f"{name}.safetensors").read_bytes() for name in ("owl", "fox")}
    (folder / "job" / "fox.json").unlink()
    train.run([*arguments, "--workers", "1"])
    left = list((folder / "job" / "lora2" / "checkpoints").iterdir())
    steps = [json.loads((folder / "job" / f"{n}.json").read_text())["steps"] for n in first]
    same = (folder / "job" / "owl.safetensors").read_bytes() == first["owl"]
    for name in first:
        assert load(folder / "job" / f"{name}.safetensors").ranks
    sys.stdout.write(f"{text}\nsteps {steps}, owl left alone: {same}, checkpoints {len(left)}\n")


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as place:
        main(Path(place))
