"""LoRA² Info: what a LoRA is made of, as tables and a picture."""

from __future__ import annotations

import numpy as np
import torch
from comfy_api.latest import io

from ..lora2_core import load
from ..lora2_core.heatmap import draw
from ..lora2_core.info import layer_table, metadata_text, summary
from .common import CATEGORY, Lora2, check_adapter, file_state, lora_file, lora_name


class LoRA2Info(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="LoRA2Info",
            display_name="LoRA² Info",
            category=CATEGORY,
            description="Shows what a LoRA is made of: metadata, ranks, and the norm and size of "
            "every layer's update.",
            search_aliases=["lora metadata", "lora info", "inspect lora", "trigger words"],
            is_output_node=True,
            inputs=[
                lora_name(
                    "Any LoRA in the loras folder; not used when lora2 is connected.",
                    optional=True,
                ),
                Lora2.Input(
                    "lora2", optional=True, tooltip="An adapter, shown instead of the file."
                ),
            ],
            outputs=[
                io.Image.Output(display_name="picture"),
                io.String.Output(display_name="table"),
                io.String.Output(display_name="metadata"),
            ],
        )

    @classmethod
    def validate_inputs(cls, lora_name=None) -> bool:
        """The list is not checked here: with lora2 connected the file may be missing."""
        return True

    @classmethod
    def fingerprint_inputs(cls, lora_name=None, **_) -> str:
        return file_state(lora_name)

    @classmethod
    def execute(cls, lora_name=None, lora2=None) -> io.NodeOutput:
        if lora2 is None:
            shown, name = load(lora_file(lora_name)), lora_name
        else:
            check_adapter(lora2)
            shown, name = lora2, "adapter"
        panels = draw(shown, "Ranks"), draw(shown, "Update norms", "norm")
        image = torch.from_numpy(np.concatenate(panels))[None].float() / 255
        metadata = metadata_text(shown.info.get("metadata", {}))
        return io.NodeOutput(
            image, layer_table(shown), metadata, ui={"text": (summary(shown, name),)}
        )


NODES = [LoRA2Info]
