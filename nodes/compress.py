"""LoRA² Compress: makes any LoRA smaller, down to a size or up to an error."""

from __future__ import annotations

from comfy_api.latest import io

from ..lora2_core.adapter.compress import compress
from ..lora2_core.adapter.dense import nothing
from ..lora2_core.adapter.origin import plain
from ..lora2_core.charts.info import kinds_of
from ..lora2_core.host.apply import adopt, updates
from ..lora2_core.host.export import from_lora_model
from ..lora2_core.host.importance import ENERGY, IMPORTANCE, importance_of
from ..lora2_core.host.lora_files import read_lora
from . import inputs
from .checking import checked
from .sockets import CATEGORY, Lora2, LoraModel, check_model


class LoRA2Compress(inputs.FileOrSocket, io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="LoRA2Compress",
            display_name="LoRA\u00b2 Compress",
            category=CATEGORY,
            description="Makes any LoRA smaller without training. The rank positions that matter "
            "least are removed; all layers are compared together.",
            search_aliases=["resize lora", "lora size", "svd", "shrink lora", "lora rank", "prune"],
            inputs=[
                inputs.lora_name(
                    "Any LoRA in the loras folder. Not used when lora is connected.", optional=True
                ),
                inputs.budget(
                    "Largest size of the result in MB (fp16); tolerance may make it smaller. 0: no "
                    "limit."
                ),
                io.Float.Input(
                    "tolerance",
                    default=0.1,
                    min=0.0,
                    max=0.999,
                    step=0.01,
                    round=1e-6,
                    tooltip="Allowed relative error (Frobenius norm) of the whole update: 0.1 "
                    "leaves out 1 % of its energy. 0: budget_mb alone decides. If both are given "
                    "and can't be met together, budget_mb decides.",
                ),
                LoraModel.Input(
                    "lora", optional=True, tooltip="A trained LoRA, used instead of the file."
                ),
                io.Model.Input(
                    "model",
                    optional=True,
                    tooltip="The base model. Only needed for DoRA, OFT and GLoRA, whose changes "
                    "depend on its weights; layers are then named as in the model.",
                ),
                io.Combo.Input(
                    "importance",
                    options=list(IMPORTANCE),
                    default=ENERGY,
                    optional=True,
                    tooltip="What goes first. energy: what changes the update least. relative: "
                    "what changes the weights of model least in proportion. loss: what the loss of "
                    "an adaptive training depends on least.",
                ),
            ],
            outputs=[Lora2.Output(display_name="lora2")],
        )

    @classmethod
    @checked
    def execute(
        cls,
        lora_name=None,
        budget_mb=0.0,
        tolerance=0.1,
        lora=None,
        model=None,
        importance=ENERGY,
    ) -> io.NodeOutput:
        source, dense = read_lora(lora_name) if lora is None else from_lora_model(lora), nothing
        if model is not None:
            check_model(model)
            source = adopt(source, model)
            dense = updates(source, model)
        result = compress(
            source,
            budget_mb=budget_mb,
            tolerance=tolerance,
            dense=dense,
            importance=importance_of(source, importance, model),
        )
        error = result.origin.run.settings["compressed"]["error"]
        sizes = f"{source.megabytes():.2f} MB \u2192 {result.megabytes():.2f} MB"
        lines = [f"{sizes}, relative error {error:.3f}", *map(plain, source.origin.file.notes)]
        if result.others:
            lines.append(f"left as they are: {kinds_of(result)}")
        return io.NodeOutput(result, ui={"text": ("\n".join(lines),)})


NODES = [LoRA2Compress]
