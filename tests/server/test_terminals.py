"""A server whose terminal can write ASCII only, the least that any code page has: what it can't
write ends no run, and its queue goes on.
"""

import os
from collections.abc import Iterator

import pytest

from tests.graphs import SAVE, TRAIN, Graph, quick_start
from tests.hosting.server import ComfyServer, ExecutionError

pytestmark = pytest.mark.slow  # a server of its own; tests/project/test_saying.py tries every text
CODE_PAGE = "ascii"
NAME = "\u00b2\u00e9\u8a9e"  # of no code page alone
BLANK = {
    "blank": {
        "class_type": "EmptyImage",
        "inputs": {"width": 8, "height": 8, "batch_size": 1, "color": 0},
    },
    "shown": {"class_type": "PreviewImage", "inputs": {"images": ["blank", 0]}},
}


@pytest.fixture(scope="module")
def mute(host) -> Iterator[ComfyServer]:
    before = os.environ.get("PYTHONIOENCODING")
    os.environ["PYTHONIOENCODING"] = CODE_PAGE
    try:
        with ComfyServer(host=host) as running:
            yield running
    finally:
        del os.environ["PYTHONIOENCODING"]
        if before is not None:
            os.environ["PYTHONIOENCODING"] = before


def training(**inputs) -> Graph:
    graph = quick_start(steps=4, batch_size=2, target_rank=4, max_rank=8, name=NAME)
    graph = {k: graph[k] for k in ("model", "pictures", "dataset", TRAIN, SAVE)}
    graph[TRAIN]["inputs"] |= inputs
    return graph


def test_a_run_trains_and_is_saved(mute: ComfyServer):
    entry = mute.run(training())
    (text,) = entry["outputs"][SAVE]["text"]
    assert NAME in text and (mute.base / "models/loras" / text.split(" (")[0]).is_file()
    assert "LoRA2 Train: step 4 of 4 after" in mute.log.read_text(errors="replace")
    mute.run(BLANK)


def test_files_on_the_way_and_their_names(mute: ComfyServer):
    graph = training(options=["keep", 0], seed=1)
    inputs = {"every": 2, "keep_last": 1, "name": NAME, "resume": "none"}
    inputs |= {"adapter_every": 2, "adapter_prefix": f"steps/{NAME}"}
    graph["keep"] = {"class_type": "LoRA2CheckpointOptions", "inputs": inputs}
    mute.run(graph)
    assert list((mute.base / "models/loras/steps").glob(f"{NAME}*"))
    mute.run(BLANK)


def test_an_error_with_such_a_name_is_told(mute: ComfyServer):
    graph = training(options=["extra", 0], seed=2)
    graph["extra"] = {"class_type": "LoRA2TargetOptions", "inputs": {"targets": NAME}}
    with pytest.raises(ExecutionError, match=r"\\xb2\\xe9\\u8a9e.* match no Linear"):
        mute.run(graph)
    mute.run(BLANK)


def test_a_cancelled_run_is_kept(mute: ComfyServer):
    def cancel(event: dict) -> None:
        if event["type"] == "lora2.train":
            mute.interrupt()

    with pytest.raises(ExecutionError, match="(?i)interrupt"):
        mute.run(training(steps=100_000, seed=3), cancel)
    assert list((mute.base / "models/loras/lora2").glob("interrupted*"))
    mute.run(BLANK)
