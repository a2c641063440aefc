"""LoRA² Train: an adapter whose ranks are learned, with live progress."""

from __future__ import annotations

from comfy_api.latest import io
from server import PromptServer

from ..lora2_core.host import live_events
from ..lora2_core.host.apply import apply_lora
from ..lora2_core.host.export import as_lora_model
from ..lora2_core.host.store import RESCUED, check_prefix
from ..lora2_core.host.training.ending import adapter_is_taken, end, end_early, kept_whatever_fails
from ..lora2_core.host.training.epochs import choices_with_epochs
from ..lora2_core.host.training.live import EVENT, Origin
from ..lora2_core.host.training.run_view import RunView
from ..lora2_core.layers.targets import with_layers
from . import inputs
from .checking import checked
from .sockets import (
    CATEGORY,
    SHOWN_AGAIN,
    Lora2,
    Lora2Options,
    LoraModel,
    check_model,
    check_options,
    first,
)


class LoRA2Train(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="LoRA2Train",
            display_name="LoRA\u00b2 Train",
            category=CATEGORY,
            description="Trains a LoRA beside the frozen model, and learns the rank of every layer "
            "during the training. If the run is cancelled, or no other node takes its adapter, the "
            "adapter is kept as a file.",
            search_aliases=[
                "train lora", "lora trainer", "adaptive rank", "dreambooth", "finetune",
                "fine-tune", "sdxl train", "train sdxl", "flux train", "train flux",
                "learning rate", "epochs", "batch size", "network dim", "network rank",
            ],
            is_input_list=True,
            is_output_node=True,  # else the host leaves it out where nothing is connected to it
            inputs=[
                io.Model.Input("model", tooltip="The base model. It is not changed."),
                io.Latent.Input(
                    "latents", tooltip="The pictures: one batch, or the list of a dataset node."
                ),
                io.Conditioning.Input(
                    "positive", tooltip="The captions: one for all pictures, or one for each."
                ),
                *inputs.run_fields(),
                Lora2Options.Input(
                    "options",
                    optional=True,
                    tooltip="A chain of LoRA\u00b2 option nodes: Rank, Target, Memory, Optimizer, "
                    "Loss, Regularization, Data, Start, Text Encoder, Validation, Preview and "
                    "Checkpoint Options.",
                ),
                io.Clip.Input(
                    "clip",
                    optional=True,
                    tooltip="Connect it to train the text encoder too. positive must then come "
                    "from LoRA\u00b2 Dataset; otherwise connect the captions as text to "
                    "LoRA\u00b2 Text Encoder Options.",
                ),
                inputs.epochs(optional=True),
                inputs.layers(),
            ],
            outputs=[
                Lora2.Output(display_name="lora2"),
                LoraModel.Output(display_name="lora", tooltip="For ComfyUI's own LoRA nodes."),
                io.Model.Output(
                    display_name="model", tooltip="The model with the adapter applied."
                ),
                io.Clip.Output(
                    display_name="clip", tooltip="The clip that came in, with the adapter applied."
                ),
            ],
            hidden=[io.Hidden.unique_id, io.Hidden.extra_pnginfo],
            **SHOWN_AGAIN,
        )  # fmt: skip

    @classmethod
    @checked
    def execute(
        cls,
        model,
        latents,
        positive,
        steps,
        batch_size,
        learning_rate,
        mode,
        target_rank,
        budget_mb,
        max_rank,
        seed,
        options=None,
        clip=None,
        epochs=None,
        layers=None,
    ) -> io.NodeOutput:
        clip = (clip or [None])[0]
        fields = {
            "steps": steps,
            "batch_size": batch_size,
            "learning_rate": learning_rate,
            "mode": mode,
            "target_rank": target_rank,
            "budget_mb": budget_mb,
            "max_rank": max_rank,
            "seed": seed,
        }
        fields = {name: first(name, values) for name, values in fields.items()} | {"clip": clip}
        check_model(first("model", model))
        chain = check_options((options or [None])[0])
        options = {**with_layers(chain, (layers or [None])[0]), **fields}
        choices = choices_with_epochs(options, (epochs or [0])[0], latents)
        check_prefix(RESCUED)
        data, origin = (model[0], latents, positive), cls.origin()
        view = RunView(origin, choices, live_events.send)
        server = getattr(PromptServer, "instance", None)  # None outside the host's server
        taken = view.say(adapter_is_taken, origin, server) is not False
        view.begin(*data, taken)
        outcome = view.train(*data)
        if outcome.stopped_by is not None:
            raise end_early(outcome, view)
        event = end(outcome, view, taken)
        with kept_whatever_fails(outcome, view):
            patched = apply_lora(model[0], clip, outcome.lora, 1.0, 1.0)
            lora = as_lora_model(outcome.lora)
        shown = {EVENT: [event]} if event else {}
        return io.NodeOutput(outcome.lora, lora, *patched, ui=shown)

    @classmethod
    def origin(cls) -> Origin:
        """Returns the node, prompt and workflow that this run's events belong to. It is an empty
        Origin when ComfyUI's executor has not called the node.
        """
        if cls.hidden is None:
            return Origin()
        info = cls.hidden.extra_pnginfo
        info = info[0] if isinstance(info, list) else info
        workflow = ((info or {}).get("workflow") or {}).get("id")
        prompt = PromptServer.instance.last_prompt_id
        return Origin(str(cls.hidden.unique_id), prompt, workflow)


NODES = [LoRA2Train]
