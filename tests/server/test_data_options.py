"""Prior preservation and masks through the server: the model's own samples are the prior."""

import pytest

from lora2_core import load
from tests.graphs import SAVE, TRAIN, Graph, quick_start
from tests.hosting.server import ComfyServer, ExecutionError

OPTIONS = {"prior_weight": 0.5, "mask_blur": 1.0, "mask_floor": 0.1}


def training(**inputs) -> Graph:
    """The quick start's training with four birds that the untrained model draws, and one mask."""
    graph = quick_start(steps=4, batch_size=2, target_rank=4, max_rank=8, name="with_prior")
    birds = graph["before sampler"]
    graph = {k: graph[k] for k in ("model", "pictures", "dataset", TRAIN, SAVE, "nothing", "noise")}
    text = "bird, noto style, blue background"
    graph["class"] = {
        "class_type": "CLIPTextEncode",
        "inputs": {"text": text, "clip": ["model", 1]},
    }
    birds["inputs"] |= {"positive": ["class", 0], "steps": 2}
    graph["birds"] = birds
    graph["mask"] = {
        "class_type": "SolidMask", "inputs": {"value": 1.0, "width": 32, "height": 32}
    }  # fmt: skip
    given = {"prior_latents": ["birds", 0], "prior_positive": ["class", 0], "masks": ["mask", 0]}
    given = {k: v for k, v in (OPTIONS | given | inputs).items() if v is not None}
    graph["data"] = {"class_type": "LoRA2DataOptions", "inputs": given}
    graph["targets"] = {
        "class_type": "LoRA2TargetOptions", "inputs": {"targets": "attn2", "options": ["data", 0]}
    }  # fmt: skip
    graph[TRAIN]["inputs"]["options"] = ["targets", 0]
    return graph


def test_the_models_own_samples_are_preserved(server: ComfyServer):
    """A batch of four, one caption for all, and another option node after it."""
    (text,) = server.run(training())["outputs"][SAVE]["text"]
    lora = load(server.base / "models" / "loras" / text.split(" (")[0])
    assert len(lora.ranks) == 28
    metadata = lora.origin.file.metadata
    assert metadata["ss_prior_loss_weight"] == "0.5" and metadata["ss_num_reg_images"] == "4"
    assert lora.origin.run.settings["masked_loss"] is True


def test_lists_of_a_dataset_are_a_prior(server: ComfyServer):
    graph = training(prior_latents=["dataset", 0], prior_positive=["dataset", 1], masks=None)
    (text,) = server.run(graph)["outputs"][SAVE]["text"]
    lora = load(server.base / "models" / "loras" / text.split(" (")[0])
    assert lora.origin.file.metadata["ss_num_reg_images"] == "8"


@pytest.mark.parametrize(
    ("inputs", "sentence"),
    [
        ({"prior_positive": None}, "prior_latents has no captions: connect prior_positive too"),
        ({"prior_positive": ["dataset", 1]}, "Of the prior: There are 4 latents but 8 captions"),
        ({"prior_weight": -1.0}, "-1.0 smaller than min of 0.0"),
        ({"masks": None, "prior_weight": "nan"}, "prior_weight is nan"),
    ],
)
def test_faults(server: ComfyServer, inputs: dict, sentence: str):
    with pytest.raises((ExecutionError, ValueError), match=sentence):
        server.run(training(**inputs))


def test_every_input_is_explained(server: ComfyServer):
    info = server.object_info()["LoRA2DataOptions"]
    assert {"regularization images", "prior preservation", "masked loss"} <= set(
        info["search_aliases"]
    )
    inputs = info["input"]["required"] | info["input"]["optional"]
    assert len(inputs) == 10 and all(options["tooltip"] for _, options in inputs.values())
