"""The text encoder through the server: captions of any node, or those that LoRA² Dataset says."""

import pytest

from lora2_core import load
from tests.graphs import SAVE, TRAIN, Graph, quick_start
from tests.hosting.server import ComfyServer, ExecutionError

PROMPT = "owl, noto style, blue background"


def training(captions: bool = True, **inputs) -> Graph:
    """The quick start's training with clip, and a sample with what came out."""
    graph = quick_start(steps=4, batch_size=2, target_rank=4, max_rank=8, name="with_text")
    del graph["heatmap"], graph["heatmap picture"]
    texts = {"captions": ["pictures", 1]} if captions else {}
    given = {"learning_rate": -1.0, "targets": "self_attn"} | texts | inputs
    graph["text"] = {"class_type": "LoRA2TextEncoderOptions", "inputs": given}
    graph["preview prompt"] = {
        "class_type": "CLIPTextEncode", "inputs": {"text": PROMPT, "clip": ["model", 1]}
    }  # fmt: skip
    graph["preview"] = {"class_type": "LoRA2PreviewOptions", "inputs": {
        "positive": ["preview prompt", 0], "vae": ["model", 2], "every": 4, "seed": 0, "steps": 2,
        "cfg": 1.0, "sampler_name": "euler", "scheduler": "simple", "width": 0, "height": 0,
        "filename_prefix": "text/preview", "prompt": PROMPT, "options": ["text", 0],
    }}  # fmt: skip
    graph[TRAIN]["inputs"] |= {"clip": ["model", 1], "options": ["preview", 0]}
    graph["prompt"]["inputs"]["clip"] = [TRAIN, 3]
    return graph


def test_both_are_trained_saved_and_sampled(server: ComfyServer):
    entry = server.run(training())
    (text,) = entry["outputs"][SAVE]["text"]
    name = text.split(" (")[0]
    lora = load(server.base / "models" / "loras" / name)
    assert sum(n.startswith("lora_te_") for n in lora.layers) == len(lora.layers) - 107
    assert lora.origin.file.metadata["ss_text_encoder_lr"] == "0.0025"
    assert len(list((server.base / "output" / "text").glob("*.png"))) == 2
    assert server.files(entry, "after")


@pytest.mark.parametrize(
    ("captions", "inputs", "sentence"),
    [
        (False, {}, "positive does not say its captions as text, which training the text encoder"),
        (True, {"targets": "nothing"}, "match none of its layers"),
        (True, {"learning_rate": 11.0}, "11.0 bigger than max of 10.0"),
    ],
)
def test_faults(server: ComfyServer, captions: bool, inputs: dict, sentence: str):
    with pytest.raises((ExecutionError, ValueError), match=sentence):
        server.run(training(captions, **inputs))


def test_without_clip_the_options_say_so(server: ComfyServer):
    graph = training()
    del graph[TRAIN]["inputs"]["clip"]
    with pytest.raises(ExecutionError, match="connect clip to LoRA2 Train, or leave them out"):
        server.run(graph)
