"""LoRA² Start Options: lets a training go on from a finished adapter."""

from __future__ import annotations

from comfy_api.latest import io

from ...lora2_core import RankedLora
from ...lora2_core.host.lora_files import read_lora
from ..inputs import FileOrSocket, lora_name
from ..sockets import Lora2, check_adapter
from .base import OptionsNode, chain


class LoRA2StartOptions(FileOrSocket, OptionsNode):
    node_id = "LoRA2StartOptions"
    title = "Start Options"
    description = (
        "Trains a finished LoRA further, made by LoRA\u00b2 or any other trainer. The run begins "
        "with what the LoRA has learned."
    )
    aliases = [
        "continue training", "fine-tune lora", "network weights", "pretrained lora",
        "train further",
    ]  # fmt: skip
    renamed = {"strength": "start_strength", "lora2": "start_from"}

    @classmethod
    def fields(cls) -> list[io.Input]:
        return [
            lora_name(
                "Any LoRA in the loras folder. Not used when lora2 is connected.", optional=True
            ),
            io.Float.Input(
                "strength",
                default=1.0,
                min=0.01,
                max=10.0,
                step=0.01,
                tooltip="The LoRA's update is multiplied by this before the first step.",
            ),
            io.Boolean.Input(
                "adopt_layers",
                default=True,
                tooltip="on: layers of the LoRA are trained too if LoRA\u00b2 Target Options does "
                "not choose them. off: they are left out, and what they learned is lost.",
            ),
            Lora2.Input(
                "lora2",
                optional=True,
                tooltip="An adapter from LoRA\u00b2 Train, Load or Compress to start from instead "
                "of the file.",
            ),
            chain(),
        ]

    @classmethod
    def settings(
        cls, lora_name: str | None = None, lora2: RankedLora | None = None, **values: object
    ) -> dict:
        """Returns the settings together with the adapter. It is read from the file if none is
        connected.
        """
        adapter = read_lora(lora_name) if lora2 is None else lora2
        check_adapter(adapter)
        return super().settings(lora2=adapter, **values)
