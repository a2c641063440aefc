"""LoRA² Loss Options: chooses which noise levels are trained, and how errors count."""

from __future__ import annotations

from comfy_api.latest import io

from ...lora2_core.training.loss import AUTO, SAMPLINGS, WEIGHTINGS
from ..inputs import number
from .base import OptionsNode, chain


class LoRA2LossOptions(OptionsNode):
    node_id = "LoRA2LossOptions"
    title = "Loss Options"
    description = (
        "Chooses which noise levels are trained, how they are weighted, and how errors count. The "
        "defaults are what LoRA\u00b2 Train does without this node."
    )
    aliases = ["min snr", "debiased", "huber", "noise offset", "timestep", "logit normal"]

    @classmethod
    def fields(cls) -> list[io.Input]:
        return [
            io.Combo.Input(
                "weighting",
                options=list(WEIGHTINGS),
                default="none",
                tooltip="Weights of the noise levels. min_snr and debiased give less weight to "
                "levels with little noise; they are only for models with eps or v prediction.",
            ),
            number(
                "gamma",
                default=5.0,
                min=0.001,
                max=1000.0,
                step=0.1,
                tooltip="The gamma of min_snr: a signal-to-noise ratio above gamma counts as "
                "gamma.",
            ),
            number(
                "huber",
                default=0.0,
                max=1000.0,
                tooltip="Errors above this value count linearly, not squared, so that outliers "
                "matter less. Often 0.1 to 1. 0: all errors are squared.",
            ),
            number(
                "noise_offset",
                default=0.0,
                max=1.0,
                tooltip="Adds noise that is the same in all of a channel, so that whole pictures "
                "can become darker or brighter. Often 0.05. 0: none.",
            ),
            io.Combo.Input(
                "sampling",
                options=list(SAMPLINGS),
                default=AUTO,
                tooltip="How timesteps are drawn. auto: as is usual for the model. logit_normal: "
                "most in the middle (SD3). high_noise: most where the composition is decided. "
                "low_noise: most where details are decided. size_shift: as logit_normal, with more "
                "noise the larger a picture is (Flux, Qwen-Image, LTX).",
            ),
            number(
                "min_timestep",
                default=0.0,
                max=1.0,
                tooltip="The least noise that is trained. 0: no noise.",
            ),
            number(
                "max_timestep",
                default=1.0,
                max=1.0,
                tooltip="The most noise that is trained. 1: only noise.",
            ),
            chain(),
        ]
