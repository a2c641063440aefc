"""LoRA² Target Options: chooses which layers are trained, and which ranks they may have."""

from __future__ import annotations

from comfy_api.latest import io

from ...lora2_core.layers.targets import ATTENTION, AUTO, LAYERS, REGEX
from .base import OptionsNode, chain


class LoRA2TargetOptions(OptionsNode):
    node_id = "LoRA2TargetOptions"
    title = "Target Options"
    description = (
        "Chooses which layers get an adapter, and which ranks some of them may have. LoRA\u00b2 "
        "Layers shows the chosen layers."
    )
    aliases = ["target modules", "layers", "block weight", "per-block rank"]
    of_before = {"layers": REGEX}

    @classmethod
    def fields(cls) -> list[io.Input]:
        return [
            io.String.Input(
                "targets",
                default=ATTENTION,
                tooltip="Python regular expression, searched in names such as "
                "diffusion_model.input_blocks.4.1.transformer_blocks.0.attn2.to_k. Click a layer "
                "of a Rank Heatmap to copy its pattern.",
            ),
            io.Combo.Input(
                "layers",
                options=list(LAYERS),
                default=AUTO,
                optional=True,
                tooltip="auto: as LoRA\u00b2 Train says. regex: the layers that targets matches. "
                "Every other choice takes one kind of layer in any model. targets counts with "
                "regex only.",
            ),
            io.String.Input(
                "only_blocks",
                default="",
                optional=True,
                tooltip="Blocks to train: down, mid, up, double, single, or the name of a block. A "
                "number or a range may follow, such as: down 4, up 0-3. Empty: all blocks.",
            ),
            io.String.Input(
                "without_blocks",
                default="",
                optional=True,
                tooltip="Blocks to leave out, written like only_blocks.",
            ),
            io.String.Input(
                "layer_ranks",
                default="",
                multiline=True,
                optional=True,
                tooltip="Lines such as attn2 = 16: layers whose names match attn2 have rank 16 at "
                "most, in fixed mode exactly 16. attn2 = 16 target 8 also gives them a "
                "target_rank of 8. For each layer the first line that matches counts.",
            ),
            chain(),
        ]
