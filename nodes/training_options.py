"""More options for LoRA² Train: the optimizer with its schedule, and what the loss minds."""

from __future__ import annotations

from comfy_api.latest import io

from ..lora2_core.training.loss import SAMPLINGS, WEIGHTINGS
from ..lora2_core.training.schedule import SCHEDULES
from ..lora2_core.training.settings import OPTIMIZERS
from .common import CATEGORY, Lora2Options
from .fields import checked
from .options import AUTO, OWN, extend, unless


def number(
    name: str, default: float, most: float, tooltip: str, step: float = 0.01, least: float = 0.0
) -> io.Float.Input:
    """A number field from `least` to `most`."""
    return io.Float.Input(
        name, default=default, min=least, max=most, step=step, round=1e-9, tooltip=tooltip
    )


class LoRA2OptimizerOptions(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="LoRA2OptimizerOptions",
            display_name="LoRA\u00b2 Optimizer Options",
            category=CATEGORY,
            description="The optimizer of the weights, its schedule, clipping and a running mean. "
            "The defaults are what LoRA\u00b2 Train does by itself.",
            search_aliases=[
                "adamw", "prodigy", "adafactor", "8bit", "scheduler", "warmup", "ema", "clipping",
                "learning rate schedule", "weight decay",
            ],
            inputs=[
                io.Combo.Input(
                    "optimizer",
                    options=list(OPTIMIZERS),
                    default="adamw",
                    tooltip="prodigy finds the step size itself: set learning_rate to 1. sgd and "
                    "adafactor want far higher learning rates than adamw. adafactor and "
                    "adamw8bit: fixed mode only. prodigy and adamw8bit need packages of their own.",
                ),
                io.Combo.Input(
                    "schedule",
                    options=[AUTO, *SCHEDULES],
                    default=AUTO,
                    tooltip="late: the learning rate falls to zero over the last half. auto: the "
                    "mode's own (late; paper: constant).",
                ),
                io.Int.Input(
                    "warmup_steps",
                    default=0,
                    min=0,
                    max=1_000_000,
                    tooltip="Steps in which the learning rate rises first; the schedule takes the "
                    "others.",
                ),
                number(
                    "weight_decay",
                    OWN,
                    1000.0,
                    "Over the whole run: weights without gradients shrink by e^-weight_decay. "
                    "-1: the mode's own (1.5; paper and adam: 0).",
                    least=OWN,
                ),
                number(
                    "beta1",
                    OWN,
                    0.99999,
                    "Of Adam and its kin, the momentum of sgd. -1: 0.9.",
                    0.001,
                    least=OWN,
                ),
                number(
                    "beta2", OWN, 0.99999, "Of Adam and its kin. -1: 0.999.", 0.001, least=OWN
                ),
                number(
                    "max_norm",
                    0.0,
                    1e6,
                    "Gradient clipping: the norm of the gradient of all weights is cut to this, "
                    "often 1. 0: never.",
                ),
                number(
                    "ema",
                    0.0,
                    0.99999,
                    "Decay of a running mean of the weights, such as 0.99, that becomes the "
                    "adapter at the end. 0: none.",
                    0.001,
                ),
                Lora2Options.Input("options", optional=True, tooltip="More options, chained."),
            ],
            outputs=[Lora2Options.Output(display_name="options")],
        )  # fmt: skip

    @classmethod
    @checked
    def execute(cls, options=None, **fields) -> io.NodeOutput:
        own = {"schedule": AUTO, "weight_decay": OWN, "beta1": OWN, "beta2": OWN}
        fields |= {name: unless(own[name], fields[name]) for name in own if name in fields}
        return io.NodeOutput(extend(options, **fields))


class LoRA2LossOptions(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="LoRA2LossOptions",
            display_name="LoRA\u00b2 Loss Options",
            category=CATEGORY,
            description="Which noise levels are trained, how they are weighed, and how errors "
            "count. The defaults are what LoRA\u00b2 Train does by itself.",
            search_aliases=[
                "min snr", "debiased", "huber", "noise offset", "timestep", "logit normal",
            ],
            inputs=[
                io.Combo.Input(
                    "weighting",
                    options=list(WEIGHTINGS),
                    default="none",
                    tooltip="Of noise levels. min_snr and debiased give the least noisy ones less "
                    "weight; for models of eps or v prediction only.",
                ),
                number("gamma", 5.0, 1000.0, "Of min_snr: the SNR it caps at.", 0.1, least=0.001),
                number(
                    "huber",
                    0.0,
                    1000.0,
                    "Errors above this count linearly, not squared, so that outliers pull less; "
                    "often 0.1 to 1. 0: all squared.",
                ),
                number(
                    "noise_offset",
                    0.0,
                    1.0,
                    "Noise that is the same all over a channel, often 0.05: lets pictures become "
                    "darker and brighter. 0: none.",
                ),
                io.Combo.Input(
                    "sampling",
                    options=list(SAMPLINGS),
                    default="uniform",
                    tooltip="How timesteps are drawn. logit_normal: most in the middle (SD3). "
                    "high_noise: most where the composition is decided. low_noise: most where "
                    "details are.",
                ),
                number(
                    "min_timestep", 0.0, 1.0, "The least noise that is trained; 0: none at all."
                ),
                number("max_timestep", 1.0, 1.0, "The most noise that is trained; 1: all noise."),
                Lora2Options.Input("options", optional=True, tooltip="More options, chained."),
            ],
            outputs=[Lora2Options.Output(display_name="options")],
        )  # fmt: skip

    @classmethod
    @checked
    def execute(cls, options=None, **fields) -> io.NodeOutput:
        return io.NodeOutput(extend(options, **fields))


NODES = [LoRA2OptimizerOptions, LoRA2LossOptions]
