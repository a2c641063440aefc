"""LoRA² Preview Options: draws pictures while a LoRA is trained."""

from __future__ import annotations

from collections.abc import Mapping

import comfy.samplers
from comfy_api.latest import io

from ...lora2_core.host.output import numbered_files
from ...lora2_core.host.training.previews import LARGEST, Preview
from ..checking import validated
from ..inputs import number
from .base import OptionsNode, chain


def side(name: str) -> io.Int.Input:
    """Makes the field for the width or height of a picture in pixels."""
    tooltip = f"The {name} in pixels. 0: that of the first training picture."
    return io.Int.Input(name, default=0, min=0, max=LARGEST, step=8, tooltip=tooltip)


class LoRA2PreviewOptions(OptionsNode):
    node_id = "LoRA2PreviewOptions"
    title = "Preview Options"
    description = (
        "Draws a picture with the unfinished adapter at regular steps, always from the same noise. "
        "LoRA\u00b2 Train shows it and saves it to the output folder. The training stays the same. "
        "Chain more of these nodes for more prompts."
    )
    aliases = [
        "sample prompts", "samples while training", "sample every", "validation image", "preview",
    ]  # fmt: skip
    renamed = {"every": "preview_every"}

    @classmethod
    def fields(cls) -> list[io.Input]:
        return [
            io.Conditioning.Input("positive", tooltip="What the picture shows."),
            io.Vae.Input("vae", tooltip="The VAE that belongs to the model."),
            io.Conditioning.Input(
                "negative",
                optional=True,
                tooltip="What the picture must not show. Not connected: a conditioning of zeros.",
            ),
            chain("Each LoRA\u00b2 Preview Options in the chain adds a prompt."),
            io.Int.Input(
                "every",
                default=100,
                min=1,
                max=1_000_000,
                tooltip="Number of steps from one picture to the next. The first picture is drawn "
                "before the training, the last one after it.",
            ),
            io.Int.Input(
                "seed",
                default=0,
                min=0,
                max=0xFFFFFFFFFFFFFFFF,
                control_after_generate=False,
                tooltip="Seed of the noise that every picture begins with.",
            ),
            io.Int.Input(
                "steps",
                default=20,
                min=1,
                max=10000,
                tooltip="Sampler steps for each picture.",
            ),
            number(
                "cfg",
                default=5.0,
                max=100.0,
                step=0.1,
                tooltip="How closely the picture follows the prompt. Use 1 for Flux and other "
                "distilled models, which is twice as fast.",
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
                tooltip="Folder and name in the output folder. A number for the run and the step "
                "are added.",
            ),
            io.String.Input(
                "prompt",
                default="",
                multiline=True,
                optional=True,
                tooltip="The prompt of positive as text. Only needed when LoRA\u00b2 Train trains "
                "the text encoder: the prompt is then encoded again for every picture.",
            ),
        ]

    @classmethod
    def validate_inputs(cls, filename_prefix=None) -> bool | str:
        """Checks before anything runs that the pictures can be written."""
        return validated((numbered_files, filename_prefix))

    @classmethod
    def extended(cls, chain: dict, values: Mapping[str, object]) -> dict:
        """Returns a copy of a chain, with this node's preview after those of earlier nodes."""
        preview = Preview(**cls.settings(**values))
        return chain | {"previews": (*chain.get("previews", ()), preview)}
