"""LoRA² Save: writes an adapter to a file that every LoRA loader reads."""

from __future__ import annotations

from comfy_api.latest import io

from ..lora2_core.files.saving import DTYPES, FORMATS
from ..lora2_core.host.lora_stack import StackEntry, read_stack, stack_of
from ..lora2_core.host.store import check_prefix, offered, write_under_loras
from .checking import CheckedFirst, checked, validated
from .sockets import CATEGORY, Lora2, LoraStack, check_adapter


class LoRA2Save(CheckedFirst, io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="LoRA2Save",
            display_name="LoRA\u00b2 Save",
            category=CATEGORY,
            description="Writes the adapter to a file in the first loras folder. Every LoRA loader "
            "lists it.",
            search_aliases=["save lora", "export lora"],
            is_output_node=True,
            inputs=[
                Lora2.Input(
                    "lora2", lazy=True, tooltip="From LoRA\u00b2 Train or LoRA\u00b2 Load."
                ),
                io.String.Input(
                    "filename_prefix",
                    default="lora2/lora2",
                    tooltip="Folder and name in the loras folder.",
                ),
                io.Combo.Input(
                    "format",
                    options=list(FORMATS),
                    default="kohya",
                    tooltip="kohya: read by every loader. peft: for diffusers. uniform: "
                    "zero-padded to one rank, for mergers that reject mixed ranks. original: as "
                    "in the file that the adapter came from. comfy: ComfyUI's own names. nunchaku: "
                    "for quantised Flux.",
                ),
                io.Combo.Input(
                    "dtype",
                    options=list(DTYPES),
                    default="fp16",
                    tooltip="Number format of the weights. fp8: half of the bytes of fp16, with an "
                    "error of about 4 % in the update; for formats with an alpha (kohya, uniform).",
                ),
                io.Float.Input(
                    "max_mb",
                    default=0.0,
                    min=0.0,
                    max=100000.0,
                    step=0.01,
                    tooltip="Largest size of the file in MB. The rank positions that matter least "
                    "are removed first. 0: the size is as trained.",
                ),
                LoraStack.Input(
                    "lora_stack",
                    optional=True,
                    tooltip="LoRAs of a stack of any pack, before this one in the output.",
                ),
            ],
            outputs=[
                io.String.Output(display_name="lora_name"),
                LoraStack.Output(
                    display_name="lora_stack",
                    tooltip="The file as a stack for loaders of many packs, at strength 1.",
                ),
            ],
        )

    @classmethod
    def validate_inputs(cls, filename_prefix=None) -> bool | str:
        """Checks before anything runs that the file can be written, so that it does not cost a
        training.
        """
        return validated((check_prefix, filename_prefix))

    @classmethod
    @checked
    def execute(
        cls,
        lora2,
        filename_prefix="lora2/lora2",
        format="kohya",
        dtype="fp16",
        max_mb=0.0,
        lora_stack=None,
    ) -> io.NodeOutput:
        check_adapter(lora2)
        before = read_stack(lora_stack)
        saved = write_under_loras(lora2, filename_prefix, form=format, dtype=dtype, max_mb=max_mb)
        facts = {"lora_name": saved.name, "megabytes": saved.megabytes}
        facts |= {"mean_rank": saved.lora.mean_rank, "ranks": saved.lora.ranks}
        shown: dict = {"text": (f"{saved.name} ({saved.megabytes:.2f} MB)",)}
        stack = stack_of([*before, StackEntry(saved.name)])
        return io.NodeOutput(
            saved.name, stack, ui=shown | {"lora2_saved": [facts | offered(saved)]}
        )


NODES = [LoRA2Save]
