"""LoRA² Preview Options: pictures while a LoRA is trained."""

from __future__ import annotations

import comfy.samplers
from comfy_api.latest import io

from ..lora2_core.host.output import numbered_files
from ..lora2_core.host.training.previews import LARGEST, Preview
from .common import CATEGORY, Lora2Options, check_options
from .fields import checked
from .training_options import number


def side(name: str) -> io.Int.Input:
    return io.Int.Input(
        name, default=0, min=0, max=LARGEST, step=8,
        tooltip=f"The {name} in pixels. 0: that of the first picture that is trained on.",
    )  # fmt: skip


class LoRA2PreviewOptions(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="LoRA2PreviewOptions",
            display_name="LoRA\u00b2 Preview Options",
            category=CATEGORY,
            description="Draws a picture with the adapter so far now and then, always from the "
            "same noise, shows it in LoRA\u00b2 Train and keeps it in the output folder. Training "
            "is the same with it and without. Chain more of these nodes for more prompts.",
            search_aliases=[
                "sample prompts", "samples while training", "sample every", "validation image",
                "preview",
            ],
            inputs=[
                io.Conditioning.Input("positive", tooltip="What the picture shows."),
                io.Vae.Input("vae", tooltip="The VAE that belongs to the model."),
                io.Conditioning.Input(
                    "negative",
                    optional=True,
                    tooltip="What it must not show. Not connected: a conditioning of zeros.",
                ),
                Lora2Options.Input("options", optional=True, tooltip="More options, chained."),
                io.Int.Input(
                    "every",
                    default=100,
                    min=1,
                    max=1_000_000,
                    tooltip="Steps from one picture to the next; the first is drawn before "
                    "training, the last after it.",
                ),
                io.Int.Input(
                    "seed",
                    default=0,
                    min=0,
                    max=0xFFFFFFFFFFFFFFFF,
                    control_after_generate=False,
                    tooltip="Of the noise that every picture begins with.",
                ),
                io.Int.Input(
                    "steps", default=20, min=1, max=10000, tooltip="Of the sampler, per picture."
                ),
                number(
                    "cfg",
                    5.0,
                    100.0,
                    "How closely the picture follows the prompt. 1 for Flux and other distilled "
                    "models, which is twice as fast.",
                    0.1,
                ),
                io.Combo.Input(
                    "sampler_name",
                    options=list(comfy.samplers.SAMPLER_NAMES),
                    default="euler",
                    tooltip="As in KSampler.",
                ),
                io.Combo.Input(
                    "scheduler",
                    options=list(comfy.samplers.SCHEDULER_NAMES),
                    default="simple",
                    tooltip="As in KSampler.",
                ),
                side("width"),
                side("height"),
                io.String.Input(
                    "filename_prefix",
                    default="lora2/previews/preview",
                    tooltip="Folder and name in the output folder. Each run has a number of its "
                    "own, each file says its step.",
                ),
                io.String.Input(
                    "prompt",
                    default="",
                    multiline=True,
                    optional=True,
                    tooltip="The prompt of positive as text. Only needed where LoRA\u00b2 Train "
                    "trains "
                    "the text encoder, which then encodes it anew for every picture.",
                ),
            ],
            outputs=[Lora2Options.Output(display_name="options")],
        )  # fmt: skip

    @classmethod
    def validate_inputs(cls, filename_prefix=None) -> bool | str:
        """Before anything runs."""
        if filename_prefix is None:  # linked, not known yet
            return True
        try:
            numbered_files(filename_prefix)
        except ValueError as error:
            return str(error)
        return True

    @classmethod
    @checked
    def execute(cls, positive, vae, every, negative=None, options=None, **fields) -> io.NodeOutput:
        options = check_options(options)
        preview = Preview(positive, vae, negative, preview_every=every, **fields)
        return io.NodeOutput({**options, "previews": (*options.get("previews", ()), preview)})


NODES = [LoRA2PreviewOptions]
