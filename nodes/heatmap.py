"""Rank Heatmap: shows the rank of every layer, as a picture and in the node."""

from __future__ import annotations

import torch
from comfy_api.latest import io, ui

from ..lora2_core.adapter.aligned import aligned
from ..lora2_core.adapter.rank_map import rank_map
from ..lora2_core.charts.heatmap import draw
from .sockets import CATEGORY, Lora2, check_adapter, check_pairs


class LoRA2RankHeatmap(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="LoRA2RankHeatmap",
            display_name="Rank Heatmap",
            category=CATEGORY,
            description="Shows the rank, update norm, bytes and energy of every layer, and the "
            "difference between two adapters.",
            search_aliases=["lora rank", "layer ranks", "lora analysis", "compare loras"],
            is_output_node=True,
            inputs=[
                Lora2.Input("lora2", tooltip="From LoRA\u00b2 Train, Load or Compress."),
                Lora2.Input(
                    "compare",
                    optional=True,
                    tooltip="A second adapter. It is shown beside the first, or as their "
                    "difference.",
                ),
            ],
            outputs=[io.Image.Output()],
            hidden=[io.Hidden.unique_id, io.Hidden.prompt, io.Hidden.extra_pnginfo],
        )

    @classmethod
    def execute(cls, lora2, compare=None) -> io.NodeOutput:
        adapters = [lora2] if compare is None else [lora2, compare]
        for adapter in adapters:
            check_adapter(adapter)
            check_pairs(adapter)
        if compare is not None:
            compare = adapters[1] = aligned(compare, lora2)
        image = torch.from_numpy(draw(lora2, compare=compare))[None].float() / 255
        shown = ui.PreviewImage(image, cls=cls).as_dict()
        shown["lora2_rank_map"] = [rank_map(adapter).as_json() for adapter in adapters]
        shown["lora2_files"] = [adapter.origin.file.name for adapter in adapters]
        return io.NodeOutput(image, ui=shown)


NODES = [LoRA2RankHeatmap]
