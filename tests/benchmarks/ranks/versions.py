"""Which results are still good: a short name for what a method does now.

`fixed` and `paper` are named by what they do, so that work on `adaptive` leaves their results
valid: the losses of a small run, to four digits. `adaptive` is named by the sources of the core's
ROOMS as well. The rivals (rivals.py) are named by what `fixed` does and by their own count.
`base` trains nothing. The host seam and the pictures are not part of the names:
after a change there that matters, count MEASURES up.
"""

from __future__ import annotations

import hashlib
from functools import cache
from pathlib import Path

import torch
from torch import Tensor, nn

import lora2_core
from tests.benchmarks.ranks import rivals

MEASURES = "1"  # count up when what is measured changes
CORE = Path(lora2_core.__file__).parent
ROOMS = (".", "adapter", "ranks", "layers", "training")  # of the core, where a mode is decided
SOURCES = b"".join(p.read_bytes() for room in ROOMS for p in sorted((CORE / room).glob("*.py")))
STEPS = 24


def digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()[:10]


def small_run(mode: str) -> list[str]:
    """Losses and mean ranks of STEPS steps on two layers."""
    generator = torch.Generator().manual_seed(0)
    module = nn.Sequential(*(nn.utils.skip_init(nn.Linear, 12, 12) for _ in range(2)))
    for parameter in module.parameters():
        parameter.data = torch.randn(parameter.shape, generator=generator) / 3
    wanted = torch.randn(12, 12, generator=generator)

    def loss_fn(generator: torch.Generator) -> Tensor:
        x = torch.randn(16, 12, generator=generator)
        return (module(x) - x @ wanted).square().mean()

    settings = lora2_core.RankSettings(mode=mode, target_rank=4, max_rank=8)
    adapters = lora2_core.attach(module, r"[01]$", settings)
    training = lora2_core.TrainSettings(STEPS, 1e-2)
    steps = lora2_core.train(adapters, loss_fn, training)
    return [f"{step.loss:.3e} {step.mean_rank:g}" for step in steps]


@cache
def version_of(method: str) -> str:
    if method == "base":
        return MEASURES
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with torch.inference_mode(False):
            mode = "fixed" if method in rivals.METHODS else method
            did = " ".join(small_run(mode)).encode()
    finally:
        torch.set_num_threads(before)
    rival = rivals.version(method).encode() if method in rivals.METHODS else b""
    return f"{MEASURES}-{digest(did + (SOURCES if method == 'adaptive' else rival))}"
