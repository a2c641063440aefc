"""LoRA² Compress Folder: makes all LoRAs of a folder smaller, with a table of what came out."""

from __future__ import annotations

from comfy_api.latest import io

from ..lora2_core.files.saving import DTYPES, FORMATS
from ..lora2_core.host.compress_folder import (
    EVERYTHING,
    Wanted,
    compress_folder,
    lora_folders,
    summary,
    table,
)
from ..lora2_core.host.importance import ENERGY, LOSS
from ..lora2_core.host.progress import LayerProgress
from ..lora2_core.host.store import check_prefix
from . import inputs
from .checking import checked, validated
from .sockets import CATEGORY


class LoRA2CompressFolder(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="LoRA2CompressFolder",
            display_name="LoRA\u00b2 Compress Folder",
            category=CATEGORY,
            description="Makes smaller copies of all LoRAs in a folder. A file that can't be "
            "compressed is a row with its reason; the others go on.",
            search_aliases=["resize folder", "batch resize lora", "shrink all loras"],
            is_output_node=True,
            inputs=[
                io.Combo.Input(
                    "lora_folder",
                    options=lora_folders(),
                    default=EVERYTHING,
                    tooltip="Folder in the loras folder, with all folders in it. A dot: all LoRAs.",
                ),
                io.String.Input(
                    "into",
                    default="lora2/smaller",
                    tooltip="Folder in the loras folder for the smaller files.",
                ),
                inputs.budget("Largest size of each file in MB (fp16). 0: no limit."),
                inputs.number(
                    "tolerance",
                    default=0.1,
                    max=0.999,
                    tooltip="Allowed relative error of each update: 0.1 leaves out 1 % of its "
                    "energy. 0: budget_mb alone decides.",
                ),
                io.Combo.Input(
                    "importance",
                    options=[ENERGY, LOSS],
                    default=ENERGY,
                    tooltip="What goes first. energy: what changes the update least. loss: what "
                    "the loss of an adaptive training depends on least.",
                ),
                io.Combo.Input(
                    "format",
                    options=list(FORMATS),
                    default="original",
                    tooltip="Names in the files, as in LoRA\u00b2 Save. original: as they are.",
                ),
                io.Combo.Input(
                    "dtype",
                    options=list(DTYPES),
                    default="fp16",
                    tooltip="Number format of the weights. fp8: half of the bytes of fp16, with an "
                    "error of about 4 % in the update; for formats with an alpha (kohya, uniform).",
                ),
            ],
            outputs=[io.String.Output(display_name="table")],
        )

    @classmethod
    def validate_inputs(cls, lora_folder=None, into=None) -> bool | str:
        """Checks before anything runs that the files can be written. The list of folders may be
        older than the disk.
        """
        return validated((lambda text: check_prefix(f"{text}/x"), into))

    @classmethod
    def fingerprint_inputs(cls, **_) -> float:
        """Returns a value that is never the same, since the folder may have changed."""
        return float("nan")

    @classmethod
    @checked
    def execute(
        cls,
        lora_folder=EVERYTHING,
        into="lora2/smaller",
        budget_mb=0.0,
        tolerance=0.1,
        importance=ENERGY,
        format="original",
        dtype="fp16",
    ) -> io.NodeOutput:
        wanted = Wanted(budget_mb, tolerance, importance, format, dtype)
        rows = compress_folder(lora_folder, into, wanted, LayerProgress())
        return io.NodeOutput(table(rows), ui={"text": (summary(rows),)})


NODES = [LoRA2CompressFolder]
