"""`nox -s fuzz` prints figures 1, 2, 3, 4, 5, 14 and 15; `-- SEED` for others than seed 0, and
`-- SEED NUMBER` for one of them.
"""

from __future__ import annotations

import asyncio
import os
import sys

import torch

from lora2_core.adapter.strengths import Strengths
from lora2_core.host.playground import load_playground
from lora2_core.playground import asset, subjects
from tests.host.flow_models import build
from tests.reliability.adapters import figure_1, figure_2, figure_3
from tests.reliability.doors import figure_14, told
from tests.reliability.figures import keep
from tests.reliability.loaders import figure_4, figure_5
from tests.reliability.prompts import Prompts, figure_15


def sockets() -> tuple[object, dict]:
    """The playground's model, and a good value for every socket."""
    model, clip, vae = load_playground(asset.load())
    images, captions = subjects.examples("owl", 2)
    positive = clip.encode_from_tokens_scheduled(clip.tokenize(captions[0]))
    latent = {"samples": torch.cat([vae.encode(image[None]) for image in images])}
    lora = told()
    values = {
        "MODEL": model, "CLIP": clip, "VAE": vae, "LATENT": latent, "CONDITIONING": positive,
        "IMAGE": images[0][None], "MASK": torch.ones(1, 32, 32), "LORA2": lora,
        "LORA2_OPTIONS": {}, "LORA_MODEL": {}, "LORA2_STRENGTHS": Strengths({"up": 0.5}),
    }  # fmt: skip
    return model, {kind: (lambda value=value: value) for kind, value in values.items()}


def all_nodes() -> dict:
    """Every node of the pack by its id."""
    import comfyui_lora2

    extension = asyncio.run(comfyui_lora2.comfy_entrypoint())
    return {n.GET_SCHEMA().node_id: n for n in asyncio.run(extension.get_node_list())}


@torch.inference_mode()
def main(seed: int = 0, *only: int) -> None:
    """only: numbers of figures; all unless given."""
    os.environ.setdefault("PYTHONWARNINGS", "ignore")
    model, values = sockets()
    nodes = all_nodes()
    measure = {
        2: figure_2,
        3: lambda: figure_3(10_000, seed),
        4: lambda: figure_4(model, build("Z-Image"), 400, seed),
        5: lambda: figure_5(1000, seed),
        14: lambda: figure_14(nodes, 5000, seed),
        15: lambda: figure_15(Prompts(nodes, values, seed), 10_000),
        1: lambda: figure_1(50_000, seed),
    }
    keep("fuzz", (measure[number]() for number in only or measure))


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
