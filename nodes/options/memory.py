"""LoRA² Memory Options: gradient checkpointing, gradient accumulation, how quantised layers
compute, and torch.compile.
"""

from __future__ import annotations

from comfy_api.latest import io

from ...lora2_core.host.training.choices import CHECKPOINTING, LARGEST_BATCH
from .base import AUTO, OptionsNode, chain


class LoRA2MemoryOptions(OptionsNode):
    node_id = "LoRA2MemoryOptions"
    title = "Memory Options"
    description = (
        "Trades speed for memory: gradient checkpointing and gradient accumulation. Also how "
        "quantised layers compute, and torch.compile."
    )
    aliases = ["gradient checkpointing", "gradient accumulation", "out of memory", "vram", "oom"]
    aliases += ["torch.compile", "straight-through estimator", "quantised"]

    @classmethod
    def fields(cls) -> list[io.Input]:
        return [
            io.Combo.Input(
                "checkpointing",
                options=list(CHECKPOINTING),
                default=AUTO,
                tooltip="on: blocks compute their activations again in the backward pass. A step "
                "takes a third longer and needs a fraction of the memory. offload: what blocks get "
                "also lies in RAM meanwhile. auto: the fastest of these that fits.",
            ),
            chain(),
            io.Int.Input(
                "gradient_accumulation_steps",
                default=1,
                min=1,
                max=LARGEST_BATCH,
                optional=True,
                tooltip="Each step adds up the gradients of so many batches, as one batch that "
                "many times larger, with the memory of one.",
            ),
            io.Boolean.Input(
                "straight_through",
                default=False,
                optional=True,
                tooltip="Quantised layers (fp8 scaled, int8, nvfp4) compute as they do when "
                "pictures are made; gradients go through the dequantised weight. Off: both use the "
                "dequantised weight.",
            ),
            io.Boolean.Input(
                "torch_compile",
                default=False,
                optional=True,
                tooltip="Blocks are compiled by torch.compile in the first step, which can "
                "take minutes: later steps may be faster. Memory and time of a step stay those of "
                "the first ranks.",
            ),
        ]
