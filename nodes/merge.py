"""LoRA² Merge: makes one LoRA of several, at any size."""

from __future__ import annotations

import torch
from comfy_api.latest import io

from ..lora2_core.adapter.conflicts import METHODS, SUM
from ..lora2_core.adapter.merging import MergeSettings, merge
from ..lora2_core.host.lora_files import file_state
from ..lora2_core.host.merge_form import SOCKETS, lines_of, read_blocks, read_weights, sources_of
from ..lora2_core.host.merging import as_adapter
from ..lora2_core.host.progress import LayerProgress
from . import inputs
from .checking import checked, validated
from .sockets import CATEGORY, Lora2, LoraModel, LoraStack, check_clip, check_model


class LoRA2Merge(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        one = io.MultiType.Input("lora", types=[Lora2, LoraModel, io.String], optional=True)
        return io.Schema(
            node_id="LoRA2Merge",
            display_name="LoRA\u00b2 Merge",
            category=CATEGORY,
            description="Makes one LoRA of several: their exact sum, or a merge that settles "
            "conflicts, cut to any size.",
            search_aliases=["merge loras", "combine loras", "ties", "dare", "lora stack", "blend"],
            inputs=[
                io.Autogrow.Input(
                    "loras",
                    template=io.Autogrow.TemplateNames(one, names=SOCKETS, min=2),
                    optional=True,
                    tooltip="LoRAs to merge: from LoRA\u00b2 Load, Compress or Train, from Load "
                    "LoRA Model, or the name of a file as LoRA\u00b2 Save gives it.",
                ),
                io.String.Input(
                    "weights",
                    default="",
                    tooltip="Weight of each LoRA, in the order of the sockets: 1, 0.5. Below 0: "
                    "subtracted. Empty: 1 for all.",
                ),
                io.Combo.Input(
                    "method",
                    options=list(METHODS),
                    default=SUM,
                    tooltip="sum: exactly what all LoRAs do together. ties: only the largest "
                    "entries, with the sign that most of them have, as their mean. dare: random "
                    "entries, scaled up, as their sum.",
                ),
                inputs.budget("Largest size of the result in MB (fp16). 0: no limit."),
                inputs.number(
                    "tolerance",
                    default=0.0,
                    max=0.999,
                    tooltip="Allowed relative error (Frobenius norm) of the merged update. 0: only "
                    "budget_mb decides; with both 0 nothing is cut.",
                ),
                inputs.number(
                    "density",
                    default=0.5,
                    min=0.001,
                    max=1.0,
                    tooltip="Of ties and dare: share of the entries of each LoRA that is kept.",
                ),
                inputs.seed("Of dare: the same seed keeps the same entries."),
                io.String.Input(
                    "blocks",
                    default="",
                    multiline=True,
                    tooltip="Factors of blocks: down=1, mid=0.5, up.2=0, by the names that the "
                    "heatmap shows. A line that begins with 2: is for lora_2 alone.",
                ),
                LoraStack.Input(
                    "lora_stack",
                    optional=True,
                    tooltip="LoRAs of a stack of any pack, merged as well, with their strengths.",
                ),
                io.Model.Input(
                    "model",
                    optional=True,
                    tooltip="The base model. Only needed for DoRA, OFT and GLoRA, and for files "
                    "whose names don't show what they belong to.",
                ),
                io.Clip.Input(
                    "clip", optional=True, tooltip="Names of its layers, if model is connected."
                ),
            ],
            outputs=[Lora2.Output(display_name="lora2")],
        )

    @classmethod
    def validate_inputs(cls, weights=None, blocks=None, loras=None) -> bool | str:
        """Reads both texts before anything runs. The host gives growing sockets to every check."""
        return validated((read_weights, weights), (read_blocks, blocks))

    @classmethod
    def fingerprint_inputs(cls, loras=None, lora_stack=None, **_) -> str:
        """Returns a text that changes when one of the files does."""
        names = [value for value in (loras or {}).values() if isinstance(value, str)]
        entries = lora_stack if isinstance(lora_stack, (list, tuple)) else ()
        names += [e[0] for e in entries if isinstance(e, (list, tuple)) and e]
        return " ".join(file_state(name) for name in names if isinstance(name, str))

    @classmethod
    @checked
    def execute(
        cls,
        weights="",
        method=SUM,
        budget_mb=0.0,
        tolerance=0.0,
        density=0.5,
        seed=0,
        blocks="",
        loras=None,
        lora_stack=None,
        model=None,
        clip=None,
    ) -> io.NodeOutput:
        if model is not None:
            check_model(model)
        check_clip(clip)
        settings = MergeSettings(method, density, seed, budget_mb, tolerance)
        with torch.inference_mode():
            sources, base = sources_of(loras or {}, lora_stack, weights, blocks, model, clip)
            out = merge(sources, settings, LayerProgress())
        out.lora = as_adapter(out, base, sources, settings)
        return io.NodeOutput(out.lora, ui={"text": ("\n".join(lines_of(sources, out, settings)),)})


NODES = [LoRA2Merge]
