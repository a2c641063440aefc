"""The real server loads the pack and knows every node that we promise."""

import pytest

from tests.graphs import quick_start
from tests.hosting.server import ComfyServer, ExecutionError

# The ids that saved workflows hold: they never change.
PROMISED = {
    "LoRA2Playground",
    "LoRA2ExamplePictures",
    "LoRA2Dataset",
    "LoRA2Train",
    "LoRA2TrainQueue",
    "LoRA2Apply",
    "LoRA2Load",
    "LoRA2BlockStrengths",
    "LoRA2Compress",
    "LoRA2CompressFolder",
    "LoRA2Merge",
    "LoRA2Extract",
    "LoRA2Save",
    "LoRA2RankHeatmap",
    "LoRA2Info",
    "LoRA2RankOptions",
    "LoRA2TargetOptions",
    "LoRA2Layers",
    "LoRA2MemoryOptions",
    "LoRA2OptimizerOptions",
    "LoRA2LossOptions",
    "LoRA2RegularizationOptions",
    "LoRA2DataOptions",
    "LoRA2StartOptions",
    "LoRA2TextEncoderOptions",
    "LoRA2ValidationOptions",
    "LoRA2CheckpointOptions",
    "LoRA2PreviewOptions",
    "LoRA2Preset",
    "LoRA2SavePreset",
    "LoRA2Report",
    "LoRA2Evaluate",
    "LoRA2Compare",
}


def test_every_promised_node_is_there(server: ComfyServer):
    assert set(server.object_info()) >= PROMISED


def test_every_node_of_the_quick_start_is_there(server: ComfyServer):
    assert set(server.object_info()) >= {node["class_type"] for node in quick_start().values()}


def test_a_prompt_runs_and_a_fault_is_named(server: ComfyServer):
    blank = {"width": 16, "height": 16, "batch_size": 2, "color": 0}
    graph = {
        "blank": {"class_type": "EmptyImage", "inputs": blank},
        "save": {
            "class_type": "SaveImage",
            "inputs": {"images": ["blank", 0], "filename_prefix": "blank"},
        },
    }
    kinds = []
    entry = server.run(graph, lambda event: kinds.append(event["type"]))
    assert [path.is_file() for path in server.files(entry, "save")] == [True, True]
    assert "executed" in kinds

    graph["save"]["inputs"]["filename_prefix"] = "../../outside"
    with pytest.raises(ExecutionError, match="SaveImage.*outside the output folder"):
        server.run(graph)

    blank["width"] = -1
    with pytest.raises(ValueError, match="EmptyImage.*smaller than min"):
        server.run(graph)
