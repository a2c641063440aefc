"""LoRA² Validation Options: pictures that are held out, and their loss."""

from __future__ import annotations

from collections.abc import Mapping

from comfy_api.latest import io

from ..inputs import number
from .base import OptionsNode, chain


class LoRA2ValidationOptions(OptionsNode):
    node_id = "LoRA2ValidationOptions"
    title = "Validation Options"
    description = (
        "Holds pictures out and computes their loss on the way, always with the same noise: where "
        "it rises again, the run learns its pictures by heart. LoRA\u00b2 Train and LoRA\u00b2 "
        "Report draw it beside the training loss."
    )
    aliases = [
        "validation loss", "validation split", "held-out loss", "overfitting", "early stopping",
        "best step", "loss per image", "clean dataset",
    ]  # fmt: skip
    takes_lists = True
    renamed: Mapping[str, str] = {
        "latents": "validation_latents", "positive": "validation_positive",
        "split": "validation_split", "every": "validation_every",
    }  # fmt: skip

    @classmethod
    def fields(cls) -> list[io.Input]:
        return [
            io.Latent.Input(
                "latents",
                optional=True,
                tooltip="Pictures of your own that are not trained on. Not connected: split takes "
                "them from the training pictures.",
            ),
            io.Conditioning.Input(
                "positive", optional=True, tooltip="Their captions: one for all, or one for each."
            ),
            chain(),
            number(
                "split",
                default=0.1,
                max=0.9,
                tooltip="The share of the training pictures that is held out, at least one. 0: "
                "none. Not used where latents is connected.",
            ),
            io.Int.Input(
                "every",
                default=0,
                min=0,
                max=1_000_000,
                tooltip="Steps from one held-out loss to the next. 0: as often, and with as many "
                "of the pictures, as costs 2 % of the run.",
            ),
            io.Boolean.Input(
                "return_best",
                default=False,
                tooltip="on: the adapter is that of the step where the smoothed held-out loss "
                "was lowest, not that of the last step.",
            ),
            io.Boolean.Input(
                "picture_losses",
                default=False,
                tooltip="on: the loss of each training picture, five times in the run, for the "
                "table in LoRA\u00b2 Report. Each picture costs about eight steps of batch size 1.",
            ),
        ]
