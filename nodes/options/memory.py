"""LoRA² Memory Options: gradient checkpointing."""

from __future__ import annotations

from comfy_api.latest import io

from ...lora2_core.host.training.choices import CHECKPOINTING
from .base import AUTO, OptionsNode, chain


class LoRA2MemoryOptions(OptionsNode):
    node_id = "LoRA2MemoryOptions"
    title = "Memory Options"
    description = "Saves memory; steps then take longer. The result is the same."
    aliases = ["gradient checkpointing", "out of memory", "vram", "oom"]

    @classmethod
    def fields(cls) -> list[io.Input]:
        return [
            io.Combo.Input(
                "checkpointing",
                options=list(CHECKPOINTING),
                default=AUTO,
                tooltip="on: blocks compute their activations again in the backward pass. A step "
                "takes a third longer and needs a fraction of the memory. auto: it is turned on "
                "when a step runs out of memory.",
            ),
            chain(),
        ]
