"""LoRA² Optimizer Options: chooses the optimizer of the weights and its schedule."""

from __future__ import annotations

from comfy_api.latest import io

from ...lora2_core.training.schedule import SCHEDULES
from ...lora2_core.training.settings import OPTIMIZERS, RATIOS
from ..inputs import number
from .base import AUTO, OWN, OptionsNode, chain


class LoRA2OptimizerOptions(OptionsNode):
    node_id = "LoRA2OptimizerOptions"
    title = "Optimizer Options"
    description = (
        "Chooses the optimizer of the weights, its schedule, gradient clipping and a running mean. "
        "The defaults are what LoRA\u00b2 Train does without this node."
    )
    aliases = [
        "adamw", "prodigy", "adafactor", "8bit", "scheduler", "warmup", "ema", "clipping",
        "learning rate schedule", "weight decay", "lora plus", "lora+",
    ]  # fmt: skip
    modes_own = ("schedule", "weight_decay", "beta1", "beta2")

    @classmethod
    def fields(cls) -> list[io.Input]:
        return [
            io.Combo.Input(
                "optimizer",
                options=list(OPTIMIZERS),
                default="adamw",
                tooltip="prodigy finds the step size itself: set learning_rate to 1. sgd and "
                "adafactor need far higher learning rates than adamw. Where ranks move, "
                "adafactor and adamw8bit begin anew. prodigy and adamw8bit need another Python "
                "package.",
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
                tooltip="Number of steps at the start in which the learning rate rises. The "
                "schedule covers the other steps.",
            ),
            number(
                "weight_decay",
                default=OWN,
                min=OWN,
                max=1000.0,
                tooltip="Total decay of the run: it multiplies a weight without gradients by "
                "e^-weight_decay. -1: the mode's own value (1.5; paper and adam: 0).",
            ),
            number(
                "beta1",
                default=OWN,
                min=OWN,
                max=0.99999,
                step=0.001,
                tooltip="beta1 of Adam-like optimizers; momentum of sgd. -1: 0.9.",
            ),
            number(
                "beta2",
                default=OWN,
                min=OWN,
                max=0.99999,
                step=0.001,
                tooltip="beta2 of Adam-like optimizers. -1: 0.999.",
            ),
            number(
                "max_norm",
                default=0.0,
                max=1e6,
                tooltip="Gradient clipping: the largest norm that the gradient of all weights "
                "together may have. 1 is common. 0: off.",
            ),
            number(
                "ema",
                default=0.0,
                max=0.99999,
                step=0.001,
                tooltip="Decay of a running mean of the weights, such as 0.99. This mean becomes "
                "the adapter at the end. 0: none.",
            ),
            chain(),
            io.String.Input(
                "optimizer_name",
                default="",
                optional=True,
                tooltip="An optimizer by dotted name instead, such as torch.optim.RAdam or "
                "schedulefree.AdamWScheduleFree; its package must be installed. It has its own "
                "betas and weight_decay. Empty: optimizer counts.",
            ),
            io.String.Input(
                "optimizer_args",
                default="",
                multiline=True,
                optional=True,
                tooltip="Arguments of optimizer_name: lines such as betas = [0.9, 0.95], or a JSON "
                "object.",
            ),
            number(
                "loraplus_lr_ratio",
                default=1.0,
                min=RATIOS[0],
                max=RATIOS[1],
                optional=True,
                tooltip="LoRA+: how many times the learning rate lora_up has; lora_down has the "
                "learning rate itself, so lower that. Its authors advise 16. 1: off.",
            ),
        ]

    @classmethod
    def settings(cls, optimizer_name: str = "", **values: object) -> dict:
        """Returns the settings, with the dotted name in place of the chosen optimizer."""
        settings = super().settings(**values)
        return settings | ({"optimizer": optimizer_name.strip()} if optimizer_name.strip() else {})
