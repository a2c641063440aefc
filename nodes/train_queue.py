"""LoRA² Train Queue: an adapter for each of some folders of pictures, one after another."""

from __future__ import annotations

import comfy.model_management
import comfy.utils
from comfy_api.latest import io

from ..lora2_core.dataset.buckets import resolutions_of
from ..lora2_core.dataset.plan import DatasetSettings
from ..lora2_core.host import live_events
from ..lora2_core.host.only_said import OnlySaid
from ..lora2_core.host.training.queue import Queue, check_queue_prefix, entries
from ..lora2_core.host.training.run_view import RunView
from ..lora2_core.layers.targets import with_layers
from . import inputs
from .checking import checked, validated
from .sockets import CATEGORY, Lora2, Lora2Options, check_clip, check_model, check_options
from .train import LoRA2Train


class LoRA2TrainQueue(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="LoRA2TrainQueue",
            display_name="LoRA\u00b2 Train Queue",
            category=CATEGORY,
            description="Trains a LoRA for each of some folders of pictures, one after another, "
            "with the same settings. Each is saved as soon as it is finished; after a stop, the "
            "next run goes on where it was.",
            search_aliases=["batch train", "train many", "several loras", "train folders", "queue"],
            is_output_node=True,
            inputs=[
                io.Model.Input("model", tooltip="The base model. It is not changed."),
                io.Clip.Input("clip", tooltip="Encodes the captions."),
                io.Vae.Input("vae", tooltip="Encodes the pictures: the VAE of the model."),
                io.String.Input(
                    "folders",
                    default="",
                    multiline=True,
                    tooltip="Folders in ComfyUI's input folder, a line each. folder = name gives "
                    "the adapter another name than its folder's.",
                ),
                io.String.Input(
                    "caption",
                    default="",
                    multiline=True,
                    tooltip="For pictures that have no .txt or .caption beside them.",
                ),
                io.Int.Input(
                    "resolution",
                    default=1024,
                    min=16,
                    max=8192,
                    step=8,
                    tooltip="As in LoRA\u00b2 Dataset: 1024 suits SDXL, 32 the Playground.",
                ),
                *inputs.run_fields(),
                inputs.epochs(),
                io.String.Input(
                    "filename_prefix",
                    default="lora2/queue/",
                    tooltip="Folder in the loras folder, or the beginning of the names, which end "
                    "with a mark of the settings.",
                ),
                Lora2Options.Input(
                    "options", optional=True, tooltip="Option nodes, as for LoRA\u00b2 Train."
                ),
                inputs.layers(),
                inputs.more_resolutions(),
            ],
            outputs=[
                Lora2.Output(
                    display_name="lora2", is_output_list=True, tooltip="An adapter a folder."
                ),
                io.String.Output(
                    display_name="lora_name",
                    is_output_list=True,
                    tooltip="The names of their files, for LoRA\u00b2 Load.",
                ),
            ],
            hidden=[io.Hidden.unique_id, io.Hidden.extra_pnginfo],
        )

    @classmethod
    def validate_inputs(
        cls, folders=None, filename_prefix=None, more_resolutions=None
    ) -> bool | str:
        """Checks before anything runs that the folders are there, and that files can be written."""
        return validated(
            (check_queue_prefix, filename_prefix),
            (entries, folders),
            (resolutions_of, more_resolutions),
        )

    @classmethod
    def fingerprint_inputs(cls, **_) -> float:
        """Runs again each time: what is finished is only read."""
        return float("nan")

    @classmethod
    @checked
    def execute(
        cls,
        model,
        clip,
        vae,
        folders,
        caption,
        resolution,
        epochs,
        filename_prefix,
        options=None,
        layers=None,
        more_resolutions="",
        **fields,
    ) -> io.NodeOutput:
        check_model(model)
        check_clip(clip)
        say, bar = OnlySaid(), comfy.utils.ProgressBar(1)
        origin = LoRA2Train.origin.__func__(cls)

        def on_picture(done: int, of: int) -> None:
            say(bar.update_absolute, done, of)
            comfy.model_management.throw_exception_if_processing_interrupted()

        def train(choices, data):
            view = RunView(origin, choices, live_events.send)
            pictures = model, data.latents, data.positive
            view.begin(*pictures, True)
            outcome = view.train(*pictures)
            if outcome.stopped_by is None:
                view.end(outcome)
            return outcome

        dataset = DatasetSettings(caption, resolution, more_resolutions=more_resolutions)
        chosen = {**with_layers(check_options(options), layers), **fields}
        queue = Queue(model, clip, vae, dataset, chosen, epochs, filename_prefix)
        return io.NodeOutput(*queue.work_off(entries(folders), on_picture, train))


NODES = [LoRA2TrainQueue]
