"""LoRA² Target Options: which layers are trained, and which ranks some of them may have."""

from __future__ import annotations

from comfy_api.latest import io

from ...lora2_core.layers.targets import ATTENTION, LAYERS, REGEX
from .base import OptionsNode, chain


class LoRA2TargetOptions(OptionsNode):
    node_id = "LoRA2TargetOptions"
    title = "Target Options"
    description = (
        "Which layers get an adapter, and which ranks some of them may have. LoRA\u00b2 Layers "
        "shows what is chosen."
    )
    aliases = ["target modules", "layers", "block weight", "per-block rank"]

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
                default=REGEX,
                optional=True,
                tooltip="regex: what targets matches. The others take their kind of layer in any "
                "model, and targets is not used.",
            ),
            io.String.Input(
                "only_blocks",
                default="",
                optional=True,
                tooltip="Blocks to train, empty for all: down, mid, up, double, single, or a "
                "block's name, each also with a number or a range: down 4, up 0-3",
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
                tooltip="Lines such as attn2 = 16: layers whose names match the pattern have at "
                "most that rank, in fixed mode exactly that. attn2 = 16 target 8 gives them a "
                "target_rank of their own. The first line that matches counts.",
            ),
            chain(),
        ]
