"""A process that is killed while it writes checkpoints leaves one that loads, and that goes on to
the same bytes.

`python -m tests.training.test_killed FOLDER` is that process: a checkpoint after every step, the
last two kept.
"""

from __future__ import annotations

import random
import subprocess
import sys
import time
from pathlib import Path

import pytest

import lora2_core as lora2
from lora2_core.atomic import write_atomic
from lora2_core.training.checkpoint import Card, encode, read_card, resume
from lora2_core.training.run import Run
from tests.tiers import fast
from tests.toys import Planted

STEPS, SETTINGS = 150, {"steps": 150}
ROOT = Path(__file__).resolve().parents[2]


def fresh() -> tuple:
    model = Planted([1, 4, 2], width=32, noise=0.2)
    adapters = lora2.attach(model, "l", lora2.RankSettings(target_rank=8, max_rank=32))
    return Run(adapters, lora2.TrainSettings(STEPS, 1e-2)), model.loss


def write_forever(folder: Path) -> None:
    run, loss = fresh()
    for step in run.steps(loss):
        card = Card.of(run, "killed", step.index, SETTINGS)
        write_atomic(folder / f"{step.index % 2}.safetensors", encode(run, card))


def adapter_of(run: Run, loss) -> bytes:
    """Of the whole run."""
    for _ in run.steps(loss):
        pass
    return b"".join(t.numpy().tobytes() for pair in run.adapters.folded().values() for t in pair)


@pytest.fixture(scope="module")
def whole() -> bytes:
    return adapter_of(*fresh())


def newest(folder: Path) -> int:
    """The step of the last checkpoint that is whole."""
    return max((read_card(path).order for path in folder.glob("*.safetensors")), default=0)


@pytest.mark.parametrize("seed", fast(range(4)))
def test_a_killed_process_leaves_a_checkpoint_that_goes_on(seed: int, whole, tmp_path: Path):
    chance = random.Random(seed)
    step = chance.randrange(2, STEPS - 20)
    with subprocess.Popen(
        [sys.executable, "-m", "tests.training.test_killed", str(tmp_path)], cwd=ROOT
    ) as process:
        while newest(tmp_path) < step and process.poll() is None:
            time.sleep(0.005)
        time.sleep(0.02 * chance.random())
        process.kill()
    assert process.returncode < 0
    files = sorted(tmp_path.glob("*.safetensors"), key=lambda path: read_card(path).order)
    orders = [read_card(path).order for path in files]
    assert orders[1] == orders[0] + 1
    for path in files:
        run, loss = fresh()
        assert resume(run, path, SETTINGS).order == len(run.losses)
    assert adapter_of(run, loss) == whole


if __name__ == "__main__":
    write_forever(Path(sys.argv[1]))
