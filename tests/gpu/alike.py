"""Whether a card learns what the CPU learns: a few steps of small models of the host's own classes,
in fp32 on both, one process for each check. `python -m tests.gpu.alike CHECK` prints one as JSON.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import torch

CLOSE = 2e-2  # relative difference of an update, in fp32
ROOM = 1 << 28  # bytes for weights that are fetched ahead


@dataclass(frozen=True)
class Check:
    """Holds one comparison. family: of tests/host/flow_models.py. in_ram: the card's run has all
    weights in RAM. device: what is compared with the CPU.
    """

    family: str = "Flux"
    mode: str = "fixed"
    checkpointing: str = "off"
    compiled: bool = False
    in_ram: bool = False
    steps: int = 3
    device: str = "cuda"

    @property
    def text(self) -> str:
        """Returns the check as the argument that `main` reads."""
        return json.dumps(asdict(self))


FLUX = Check()
IN_RAM = replace(FLUX, in_ram=True)
FAMILIES = (
    "Flux", "Flux 2", "Chroma", "SD3", "Lumina 2", "Z-Image", "Qwen-Image", "Wan 2.1"
)  # fmt: skip
CHECKS = {name: Check(name) for name in FAMILIES} | {
    "Flux, adaptive, with reviews": replace(FLUX, mode="adaptive", steps=12),
    "Flux, paper": replace(FLUX, mode="paper"),
    "Flux, checkpointing": replace(FLUX, checkpointing="on"),
    "Flux, checkpointing, inputs of blocks in RAM": replace(FLUX, checkpointing="offload"),
    "Flux, torch_compile": replace(FLUX, compiled=True),
    "Flux, weights in RAM": IN_RAM,
    "Flux, weights in RAM, checkpointing": replace(IN_RAM, checkpointing="on"),
    "Qwen-Image, weights in RAM": replace(IN_RAM, family="Qwen-Image"),
    "Wan 2.1, weights in RAM": replace(IN_RAM, family="Wan 2.1"),
}


@contextmanager
def weights_in_ram() -> Iterator[None]:
    """Has the host leave all weights of models on loan in RAM, inside."""
    from lora2_core.host.training.loan import Loan

    take = Loan.take

    def taken(self: Loan) -> None:
        self.beside = 1 << 60
        if hasattr(self, "room"):
            self.room = ROOM
        take(self)

    Loan.take = taken
    try:
        yield
    finally:
        Loan.take = take


def learned(check: Check, device: str):
    """Returns the adapter that a run makes on a device, and its losses."""
    import comfy.model_management

    from lora2_core import RankSettings, TrainSettings
    from lora2_core.host.training.choices import Choices
    from lora2_core.host.training.run import train_on
    from tests.host.flow_models import build, pictures

    on_card = device != "cpu"
    choices = Choices(
        RankSettings(mode=check.mode, target_rank=4), TrainSettings(check.steps, 1e-3),
        checkpointing=check.checkpointing, torch_compile=check.compiled and on_card,
    )  # fmt: skip
    comfy.model_management.get_torch_device = lambda: torch.device(device)
    with torch.inference_mode():
        model = build(check.family)
        model.offload_device = torch.device("cpu")
        data = pictures(check.family)
        out = train_on(model, *data, choices, lambda step: None)
    if out.stopped_by is not None:
        raise out.stopped_by
    return out.lora, out.losses


def compared(check: Check) -> dict:
    """Returns how far a run on the card ends from one on the CPU: the largest relative difference
    of a layer's update, and of a loss; how many layers have no update.
    """
    ours, losses = learned(check, "cpu")
    if check.in_ram:
        with weights_in_ram():
            theirs, others = learned(check, check.device)
    else:
        theirs, others = learned(check, check.device)
    pairs = zip(losses, others, strict=True)
    of_loss = max(abs(a - b) / abs(a) for a, b in pairs)
    row = differences(ours, theirs) | {"loss": of_loss}
    return row | {"close": row["worst layer"] < CLOSE}


def differences(ours, theirs) -> dict:
    """Returns how far the updates of an adapter are from those of another: the largest relative
    difference of a layer, and how many layers have none where the other has one.
    """
    apart, idle = [], 0
    for name, layer in ours.layers.items():
        update = layer.delta()
        if update.any():
            there = name in theirs.layers
            found = theirs.layers[name].delta().cpu() if there else torch.zeros_like(update)
            apart.append(float((found - update).norm() / update.norm()))
            idle += not found.any()
    return {"worst layer": max(apart), "idle": idle}


def main() -> None:
    from tests.gpu.run_all import MARK
    from tests.hosting.inprocess import enter

    enter(Path(os.environ["LORA2_HOST"]))
    try:
        row = compared(Check(**json.loads(sys.argv[1])))
    except Exception as error:  # what a card can't do is a result too
        row = {"error": " ".join(f"{type(error).__name__}: {error}".split())[:300]}
    print(MARK + json.dumps(row), flush=True)


if __name__ == "__main__":
    main()
