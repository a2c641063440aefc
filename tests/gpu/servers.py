"""The same few steps in the real server, started in the ways that people start it, against those of
a server on a CPU: attention back ends, weights in RAM, dynamic VRAM.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Sequence

from lora2_core import load
from tests import graphs
from tests.gpu.alike import differences
from tests.hosting.server import ComfyServer

STEPS = 3
# relative difference of an update: on a card the host encodes pictures and captions in 16 bits, and
# Adam's first steps turn small gradients into steps of full length
CLOSE = 0.3
CPU = ("--cpu",)
WAYS: dict[str, Sequence[str]] = {
    "as it starts": (),
    "dynamic VRAM off": ("--disable-dynamic-vram",),
    "dynamic VRAM off, weights in RAM": ("--disable-dynamic-vram", "--novram"),
    "dynamic VRAM off, weights in RAM, on side streams": (
        "--disable-dynamic-vram", "--novram", "--async-offload"
    ),
    "cudaMallocAsync off": ("--disable-cuda-malloc",),
    "SageAttention": ("--use-sage-attention",),
    "FlashAttention": ("--use-flash-attention",),
    "split attention": ("--use-split-cross-attention",),
    "sub-quadratic attention": ("--use-quad-cross-attention",),
    "PyTorch's attention": ("--use-pytorch-cross-attention",),
    "--fast": ("--fast",),
}  # fmt: skip
NEEDED = {"SageAttention": "sageattention", "FlashAttention": "flash_attn"}  # packages


def graph() -> graphs.Graph:
    """Returns the quick start without its pictures: it trains, and saves the adapter."""
    whole = graphs.quick_start(steps=STEPS, mode="fixed", learning_rate=1e-3)
    wanted, found = [graphs.SAVE], {}
    while wanted:
        name = wanted.pop()
        found[name] = whole[name]
        wanted += [v[0] for v in whole[name]["inputs"].values() if isinstance(v, list)]
    return found


def learned(arguments: Sequence[str]):
    """Returns the adapter that a server trains which is started with these arguments."""
    with ComfyServer(arguments=arguments) as server:
        server.run(graph())
        (file,) = (server.base / "models/loras").rglob("*.safetensors")
        return load(file)


def rows(ways: dict[str, Sequence[str]] = WAYS) -> dict[str, dict]:
    """Returns what each way of starting the server makes of the same training."""
    expected, found = learned(CPU), {}
    for name, arguments in ways.items():
        if (package := NEEDED.get(name)) and importlib.util.find_spec(package) is None:
            found[name] = {"error": f"{package} is not installed"}
            continue
        try:
            row = differences(expected, learned(arguments))
            found[name] = row | {"close": row["worst layer"] < CLOSE}
        except (RuntimeError, ValueError, OSError) as error:  # what does not start is a result too
            found[name] = {"error": " ".join(str(error).split())[-300:]}
    return found
