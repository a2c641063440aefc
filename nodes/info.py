"""LoRA² Info: shows what a LoRA consists of, as tables and a picture."""

from __future__ import annotations

import os

import torch
from comfy_api.latest import io

from ..lora2_core.adapter.model_order import in_model_order
from ..lora2_core.charts.info import as_saved, file_scales, layer_table, metadata_text, summary
from ..lora2_core.charts.info_picture import picture
from ..lora2_core.host.lora_files import lora_file, read_lora
from ..lora2_core.host.sidecars import write_sidecar
from ..lora2_core.paths import quoted
from . import inputs
from .checking import checked
from .sockets import CATEGORY, Lora2, check_adapter


class LoRA2Info(inputs.FileOrSocket, io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="LoRA2Info",
            display_name="LoRA\u00b2 Info",
            category=CATEGORY,
            description="Shows what a LoRA consists of: metadata, ranks, and the norm and size of "
            "every layer's update.",
            search_aliases=["lora metadata", "lora info", "inspect lora", "trigger words"],
            is_output_node=True,
            inputs=[
                inputs.lora_name(
                    "Any LoRA in the loras folder. Not used when lora2 is connected.", optional=True
                ),
                Lora2.Input(
                    "lora2",
                    optional=True,
                    tooltip="An adapter from LoRA\u00b2 Train, Load or Compress, shown instead of "
                    "the file.",
                ),
                io.Boolean.Input(
                    "sidecar",
                    default=False,
                    optional=True,
                    tooltip="Write trigger words, base model and ranks beside the file, as "
                    "NAME.metadata.json, for LoRA-Manager. What is in it already stays.",
                ),
            ],
            outputs=[
                io.Image.Output(display_name="picture"),
                io.String.Output(display_name="table"),
                io.String.Output(display_name="metadata"),
            ],
        )

    @classmethod
    @checked
    def execute(cls, lora_name=None, lora2=None, sidecar=False) -> io.NodeOutput:
        if sidecar and lora2 is not None:
            raise ValueError(
                "sidecar is on, but lora2 is connected, which has no file: disconnect it and "
                "choose lora_name, or turn sidecar off."
            )
        if lora2 is not None:
            check_adapter(lora2)
            lora, name, metadata = in_model_order(lora2), "adapter", as_saved(lora2)
            scales = file_bytes = None
        elif isinstance(lora_name, str) and lora_name:
            path, name = lora_file(lora_name), lora_name
            lora = in_model_order(read_lora(lora_name))
            scales = file_scales(path, lora.origin.file.bases)
            metadata, file_bytes = lora.origin.file.metadata, os.stat(path).st_size
        else:
            raise ValueError(
                f"lora_name is {quoted(lora_name)} and lora2 is not connected: choose a file, or "
                "connect LoRA2 Train or LoRA2 Load."
            )
        image = torch.from_numpy(picture(lora, name))[None].float() / 255
        text = summary(lora, name, metadata, file_bytes)
        if sidecar:
            text += f"\nwritten: {write_sidecar(lora_name, lora, metadata)}"
        shown = {"text": (text,)}
        return io.NodeOutput(image, layer_table(lora, scales), metadata_text(metadata), ui=shown)


NODES = [LoRA2Info]
