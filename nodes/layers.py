"""LoRA² Layers: shows which layers a run would train, without training them."""

from __future__ import annotations

from comfy_api.latest import io, ui

from ..lora2_core.host.training.choices import LARGEST_BATCH, Choices
from ..lora2_core.host.training.estimate import memory_line
from ..lora2_core.host.training.layer_picture import idle_line, layer_picture
from ..lora2_core.layers.layer import is_adaptable
from ..lora2_core.layers.target_table import kinds, rows, summary, table
from ..lora2_core.layers.targets import places, with_layers
from ..lora2_core.ranks.layer_ranks import MOST
from . import inputs
from .checking import checked
from .sockets import CATEGORY, Lora2Options, check_model, check_options


class LoRA2Layers(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="LoRA2Layers",
            display_name="LoRA\u00b2 Layers",
            category=CATEGORY,
            description="Shows which layers LoRA\u00b2 Train would train with these options, their "
            "shapes, and the size of one rank of each. Nothing is trained.",
            search_aliases=["target modules", "layer names", "list layers"],
            is_output_node=True,
            inputs=[
                io.Model.Input("model", tooltip="The model to train. It is not changed."),
                Lora2Options.Input(
                    "options",
                    optional=True,
                    tooltip="The same options as for LoRA\u00b2 Train. LoRA\u00b2 Target Options "
                    "chooses the layers.",
                ),
                io.Int.Input(
                    "target_rank",
                    default=16,
                    min=1,
                    max=4096,
                    optional=True,
                    tooltip="As in LoRA\u00b2 Train. The size is counted at this rank.",
                ),
                inputs.layers(),
                io.Int.Input(
                    "resolution",
                    default=1024,
                    min=64,
                    max=8192,
                    step=8,
                    optional=True,
                    tooltip="Width and height of the pictures, in pixels. The memory that a run "
                    "needs is estimated for it.",
                ),
                io.Int.Input(
                    "batch_size",
                    default=1,
                    min=1,
                    max=LARGEST_BATCH,
                    optional=True,
                    tooltip="As in LoRA\u00b2 Train. The memory is estimated for it.",
                ),
            ],
            outputs=[
                io.String.Output(
                    display_name="table",
                    tooltip="One line for each layer, with tabs between the columns.",
                ),
                io.Int.Output(display_name="count"),
                io.String.Output(
                    display_name="names", is_output_list=True, tooltip="The name of each layer."
                ),
                io.Image.Output(
                    display_name="picture",
                    tooltip="Blocks in rows, layers in columns; what is left out is pale.",
                ),
            ],
            hidden=[io.Hidden.prompt, io.Hidden.extra_pnginfo],
        )

    @classmethod
    @checked
    def execute(
        cls, model, options=None, target_rank=64, layers=None, resolution=1024, batch_size=1
    ) -> io.NodeOutput:
        check_model(model)
        fields = {"max_rank": MOST, "target_rank": target_rank, "batch_size": batch_size}
        choices = Choices.of({**fields, **with_layers(check_options(options), layers)})
        chosen = rows(choices.target.chosen(model.model), choices.rank)
        adaptable = sum(map(is_adaptable, model.model.modules()))
        text = summary(chosen, choices.rank, adaptable, kinds(model.model, chosen))
        text += idle_line(model.model, chosen)
        if needs := memory_line(model, choices, resolution):
            text = f"{text}\n{needs}"
        found, picture = places(model.model), layer_picture(model.model, chosen)
        shown = {**ui.PreviewImage(picture, cls=cls).as_dict(), "text": (text,)}
        return io.NodeOutput(table(chosen, found), len(chosen), list(chosen), picture, ui=shown)


NODES = [LoRA2Layers]
