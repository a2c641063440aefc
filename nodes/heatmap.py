"""Rank Heatmap: what every layer learned, as a picture and in the node."""

from __future__ import annotations

import torch
from comfy_api.latest import io, ui

from ..lora2_core.heatmap import draw
from ..lora2_core.rank_map import rank_map
from .common import CATEGORY, Lora2, check_adapter


class LoRA2RankHeatmap(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="LoRA2RankHeatmap",
            display_name="Rank Heatmap",
            category=CATEGORY,
            description="Draws the learned rank of every layer: blocks down, attention modules "
            "across.",
            search_aliases=["lora rank", "layer ranks", "lora analysis"],
            is_output_node=True,
            inputs=[Lora2.Input("lora2", tooltip="From LoRA² Train or LoRA² Load.")],
            outputs=[io.Image.Output()],
            hidden=[io.Hidden.unique_id, io.Hidden.prompt, io.Hidden.extra_pnginfo],
        )

    @classmethod
    def execute(cls, lora2) -> io.NodeOutput:
        check_adapter(lora2)
        image = torch.from_numpy(draw(lora2))[None].float() / 255
        shown = ui.PreviewImage(image, cls=cls).as_dict()
        return io.NodeOutput(image, ui=shown | {"lora2_rank_map": [rank_map(lora2).as_json()]})


NODES = [LoRA2RankHeatmap]
