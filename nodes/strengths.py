"""LoRA² Block Strengths: how strongly an adapter acts in each part of a model, and when."""

from __future__ import annotations

from functools import partial

from comfy_api.latest import io

from ..lora2_core.adapter.block_weights import read_block_weights
from ..lora2_core.adapter.strengths import BETWEEN, HOLD, Strengths, read_schedule
from ..lora2_core.checks import check_text
from ..lora2_core.layers.parts import PARTS
from .checking import checked, validated
from .sockets import CATEGORY, BlockStrengths

# part -> what it is, as far as its name doesn't say it
WHAT = {
    "down": "of a UNet, on the way down: composition",
    "mid": "in the middle of a UNet",
    "up": "of a UNet, on the way up: colours, details, style",
    "double": "in which picture and text have weights of their own",
    "single": "with one stream, as all of Wan and Z-Image are",
    "other": "",
}


def slider(part: str) -> io.Float.Input:
    """Makes the slider of a part of the model."""
    blocks = f"blocks {WHAT[part]}" if WHAT[part] else "layers outside of blocks"
    return io.Float.Input(
        part,
        default=1.0,
        min=-2.0,
        max=2.0,
        step=0.05,
        round=1e-6,
        display_mode=io.NumberDisplay.slider,
        tooltip=f"Factor of the adapter's strength in {blocks}. 0: it changes nothing there.",
    )


class LoRA2BlockStrengths(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="LoRA2BlockStrengths",
            display_name="LoRA\u00b2 Block Strengths",
            category=CATEGORY,
            description="Factors of an adapter's strength: for parts of the model, for single "
            "blocks, and over the sampling steps. Connect it to LoRA\u00b2 Load or LoRA\u00b2 "
            "Apply.",
            search_aliases=[
                "lora block weight",
                "block weights",
                "lbw",
                "lora schedule",
                "lora strength",
                "keyframes",
            ],
            inputs=[
                *map(slider, PARTS),
                io.String.Input(
                    "blocks",
                    default="",
                    multiline=True,
                    tooltip="Factors of single blocks, which count instead of the sliders: "
                    "double_blocks.3=0.5, up.2=0, attn2=0, text=1. Names as in the heatmap, or "
                    "words of a layer's path; 0-5 means these numbers. The last one that fits "
                    "counts.",
                ),
                io.String.Input(
                    "schedule",
                    default="",
                    tooltip="Factors over the sampling: with 0:1, 0.5:0.3 it is 1 from the start "
                    "and 0.3 from the middle on. Only for the model, not the text encoder. Empty: "
                    "the same all along.",
                ),
                io.Combo.Input(
                    "between",
                    options=list(BETWEEN),
                    default=HOLD,
                    tooltip="hold: a value of the schedule holds until the next one. linear: it "
                    "goes over to the next one in a line.",
                ),
            ],
            outputs=[BlockStrengths.Output(display_name="strengths")],
        )

    @classmethod
    def validate_inputs(cls, blocks=None, schedule=None) -> bool | str:
        """Reads both texts before anything runs."""
        texts = (partial(check_text, "blocks"), blocks), (partial(check_text, "schedule"), schedule)
        return validated(*texts, (read_block_weights, blocks), (read_schedule, schedule))

    @classmethod
    @checked
    def execute(cls, blocks="", schedule="", between=HOLD, **factors: float) -> io.NodeOutput:
        parts = {part: float(factors.get(part, 1.0)) for part in PARTS}
        read = read_block_weights(blocks), read_schedule(schedule)
        return io.NodeOutput(Strengths(parts, *read, between))


NODES = [LoRA2BlockStrengths]
