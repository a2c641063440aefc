"""LoRA² Regularization Options: dropout, and a cap on the update."""

from __future__ import annotations

from comfy_api.latest import io

from ...lora2_core.training.settings import LARGEST_DROPOUT
from ..inputs import number
from .base import OptionsNode, chain


class LoRA2RegularizationOptions(OptionsNode):
    node_id = "LoRA2RegularizationOptions"
    title = "Regularization Options"
    description = (
        "Dropout of rank positions and of layers, and a cap on each layer's update: against "
        "pictures learned by heart. All are off by default. LoRA\u00b2 Dataset has the dropout of "
        "captions."
    )
    aliases = [
        "rank dropout", "module dropout", "max norm", "scale weight norms", "overfitting",
        "regularisation",
    ]  # fmt: skip

    @classmethod
    def fields(cls) -> list[io.Input]:
        return [
            number(
                "rank_dropout",
                default=0.0,
                max=LARGEST_DROPOUT,
                tooltip="The probability that a rank position is left out of a step, often 0.1; "
                "the others count more meanwhile. 0: off.",
            ),
            number(
                "module_dropout",
                default=0.0,
                max=LARGEST_DROPOUT,
                tooltip="The probability that a layer's adapter is left out of a step, often 0.1. "
                "0: off.",
            ),
            number(
                "scale_weight_norms",
                default=0.0,
                max=1e6,
                tooltip="The largest norm (Frobenius) of a layer's update, often 1; a larger one "
                "is scaled down after every step. 0: off.",
            ),
            chain(),
        ]
