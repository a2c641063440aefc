"""LoRA² Start Options: training goes on from a finished adapter."""

from __future__ import annotations

from comfy_api.latest import io

from .common import (
    CATEGORY,
    FileOrSocket,
    Lora2,
    Lora2Options,
    check_adapter,
    check_options,
    lora_name,
    read_lora,
)
from .fields import checked


class LoRA2StartOptions(FileOrSocket, io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="LoRA2StartOptions",
            display_name="LoRA\u00b2 Start Options",
            category=CATEGORY,
            description="Trains a finished LoRA further, of LoRA\u00b2 or any other trainer: the "
            "run "
            "begins where it ended.",
            search_aliases=[
                "continue training", "fine-tune lora", "network weights", "pretrained lora",
                "train further",
            ],
            inputs=[
                lora_name(
                    "Any LoRA in the loras folder; not used when lora2 is connected.",
                    optional=True,
                ),
                io.Float.Input(
                    "strength",
                    default=1.0,
                    min=0.01,
                    max=10.0,
                    step=0.01,
                    tooltip="Its update is multiplied by this before the first step.",
                ),
                io.Boolean.Input(
                    "adopt_layers",
                    default=True,
                    tooltip="on: layers that it has beyond those chosen in LoRA\u00b2 Target "
                    "Options "
                    "are trained too. off: they are left out, with what they learned.",
                ),
                Lora2.Input(
                    "lora2",
                    optional=True,
                    tooltip="An adapter from LoRA\u00b2 Train, Load or Compress to start from "
                    "instead "
                    "of the file.",
                ),
                Lora2Options.Input("options", optional=True, tooltip="More options, chained."),
            ],
            outputs=[Lora2Options.Output(display_name="options")],
        )  # fmt: skip

    @classmethod
    @checked
    def execute(
        cls, strength=1.0, adopt_layers=True, lora_name=None, lora2=None, options=None
    ) -> io.NodeOutput:
        if lora2 is None:
            lora2 = read_lora(lora_name)
        check_adapter(lora2)
        changes = {"start_from": lora2, "start_strength": strength, "adopt_layers": adopt_layers}
        return io.NodeOutput({**check_options(options), **changes})


NODES = [LoRA2StartOptions]
