"""The nodes: forms that check their inputs, call the core and return."""

from comfy_api.latest import ComfyExtension, io

from ..lora2_core.host import store
from ..lora2_core.host.data.caption_route import add_route
from ..lora2_core.host.training import checkpoint_files
from ..lora2_core.saying import plainly
from . import (
    apply,
    compress,
    compress_folder,
    dataset,
    evaluate,
    extract,
    heatmap,
    info,
    layers,
    merge,
    options,
    playground,
    report,
    save,
    strengths,
    train,
    train_queue,
)

NODES = [
    *playground.NODES,
    *dataset.NODES,
    *train.NODES,
    *train_queue.NODES,
    *options.NODES,
    *layers.NODES,
    *apply.NODES,
    *strengths.NODES,
    *compress.NODES,
    *compress_folder.NODES,
    *merge.NODES,
    *extract.NODES,
    *save.NODES,
    *heatmap.NODES,
    *info.NODES,
    *report.NODES,
    *evaluate.NODES,
]
# The host writes what these two methods raise to the terminal, which may lack some characters.
for node in NODES:
    for name in ("execute", "fingerprint_inputs"):
        if any(name in vars(kind) for kind in node.__mro__ if kind.__module__.startswith(__name__)):
            setattr(node, name, classmethod(plainly(getattr(node, name).__func__)))


class LoRA2Extension(ComfyExtension):
    """The extension that the host loads."""

    async def on_load(self) -> None:
        """Removes what a crash left half written, and adds the server route."""
        add_route()
        store.sweep_orphans()
        checkpoint_files.sweep_orphans()

    async def get_node_list(self) -> list[type[io.ComfyNode]]:
        """Returns every node of the pack."""
        return NODES
