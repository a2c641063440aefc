"""LoRA² Merge and LoRA² Extract through the server: growing sockets, files by name, and a stack."""

from lora2_core import load
from tests.graphs import SAVE, TRAIN, quick_start
from tests.hosting.server import ComfyServer


def test_two_adapters_become_one_and_a_model_gives_one_back(server: ComfyServer) -> None:
    """An adapter and the file that it was saved as, a stack of that file, and the tuned model."""
    graph = quick_start(steps=4, batch_size=2, mode="fixed", target_rank=4, name="merged")
    graph = {k: graph[k] for k in ("model", "pictures", "dataset", TRAIN, SAVE)}
    written = {"format": "kohya", "dtype": "fp32", "max_mb": 0.0}
    graph |= {
        "merge": {
            "class_type": "LoRA2Merge",
            "inputs": {
                "loras.lora_1": [TRAIN, 0], "loras.lora_2": [SAVE, 0], "lora_stack": [SAVE, 1],
                "weights": "1, 1", "method": "sum", "budget_mb": 0.0, "tolerance": 0.0,
                "density": 0.5, "seed": 0, "blocks": "", "model": ["model", 0],
            },
        },
        "three": {"class_type": "LoRA2Save", "inputs": {
            "lora2": ["merge", 0], "filename_prefix": "lora2/three", **written}},
        "extract": {
            "class_type": "LoRA2Extract",
            "inputs": {"model": [TRAIN, 2], "base": ["model", 0], "layers": "", "budget_mb": 0.0,
                       "tolerance": 0.001, "rest": False},
        },
        "again": {"class_type": "LoRA2Save", "inputs": {
            "lora2": ["extract", 0], "filename_prefix": "lora2/again", **written}},
    }  # fmt: skip
    outputs = server.run(graph)["outputs"]
    folder = server.base / "models" / "loras"
    name = {node: outputs[node]["text"][0].split(" (")[0] for node in (SAVE, "three", "again")}
    plain, three, again = (load(folder / name[node]) for node in (SAVE, "three", "again"))
    assert "3 LoRAs" in outputs["merge"]["text"][0]
    for layer in plain.layers:
        wanted = plain.layers[layer].delta()
        if wanted.norm() > 1e-4:
            assert (three.layers[layer].delta() / 3 - wanted).norm() < 0.01 * wanted.norm()
            assert (again.layers[layer].delta() - wanted).norm() < 0.01 * wanted.norm()
