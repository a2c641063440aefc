"""The nodes: forms that check their inputs, call the core and return."""

from comfy_api.latest import ComfyExtension, io

from ..lora2_core.host import store
from ..lora2_core.host.training import checkpoint_files
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
for node in NODES:  # what they raise, the host writes to the terminal
    for name in ("execute", "fingerprint_inputs"):
        if any(name in vars(kind) for kind in node.__mro__ if kind.__module__.startswith(__name__)):
            setattr(node, name, classmethod(plainly(getattr(node, name).__func__)))


class LoRA2Extension(ComfyExtension):
    """What the host loads."""

    async def on_load(self) -> None:
        """What a crash left half written goes at the next start."""
        store.sweep_orphans()
        checkpoint_files.sweep_orphans()

    async def get_node_list(self) -> list[type[io.ComfyNode]]:
        return NODES
