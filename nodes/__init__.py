"""The nodes: forms that check their inputs, call the core and return."""

from comfy_api.latest import ComfyExtension, io

from ..lora2_core.host.store import sweep_orphans
from ..lora2_core.saying import plainly
from . import (
    apply,
    checkpoint_options,
    compress,
    data_options,
    dataset,
    evaluate,
    heatmap,
    info,
    layers,
    options,
    playground,
    preview_options,
    report,
    save,
    start_options,
    text_encoder_options,
    train,
    training_options,
)

NODES = [
    *playground.NODES,
    *dataset.NODES,
    *train.NODES,
    *options.NODES,
    *layers.NODES,
    *training_options.NODES,
    *data_options.NODES,
    *start_options.NODES,
    *text_encoder_options.NODES,
    *checkpoint_options.NODES,
    *preview_options.NODES,
    *apply.NODES,
    *compress.NODES,
    *save.NODES,
    *heatmap.NODES,
    *info.NODES,
    *report.NODES,
    *evaluate.NODES,
]
for node in NODES:
    node.execute = classmethod(plainly(vars(node)["execute"].__func__))


class LoRA2Extension(ComfyExtension):
    """What the host loads."""

    async def on_load(self) -> None:
        """What a crash left half written goes at the next start."""
        sweep_orphans()

    async def get_node_list(self) -> list[type[io.ComfyNode]]:
        return NODES
