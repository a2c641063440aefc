"""LoRA² Rank Options: chooses how ranks are learned."""

from __future__ import annotations

from comfy_api.latest import io

from ...lora2_core.ranks.settings import INITS
from ..inputs import number
from .base import AUTO, OWN, OptionsNode, chain


def own_number(name: str, tooltip: str, most: float = 1000.0) -> io.Float.Input:
    """Makes a number field whose default stands for the mode's own value."""
    tooltip = f"{tooltip} -1: the mode's own value."
    return number(name, default=OWN, min=OWN, max=most, step=1e-6, tooltip=tooltip)


class LoRA2RankOptions(OptionsNode):
    node_id = "LoRA2RankOptions"
    title = "Rank Options"
    description = (
        "Has every hyper-parameter of rank learning. The defaults are the values of the mode that "
        "is chosen in LoRA\u00b2 Train."
    )
    aliases = ["quantile", "lambda rank", "importance"]
    modes_own = (
        "quantile", "start_rank", "init", "tolerance", "rank_weight", "attention_weight",
        "rate_learning_rate",
    )  # fmt: skip

    @classmethod
    def fields(cls) -> list[io.Input]:
        return [
            io.Float.Input(
                "quantile",
                default=OWN,
                min=OWN,
                max=0.9999,
                step=0.01,
                tooltip="The rank of a layer covers this share of the layer's total importance. "
                "-1: the mode's own value (paper 0.9, adaptive 0.3).",
            ),
            io.Int.Input(
                "start_rank",
                default=0,
                min=0,
                max=4096,
                tooltip="Rank at the first step. 0: the mode's own value.",
            ),
            io.Combo.Input(
                "init",
                options=[AUTO, *INITS],
                default=AUTO,
                tooltip="Scale of lora_down at the start. auto: the mode's own value.",
            ),
            own_number(
                "tolerance",
                "adaptive: a rank position is removed if it is worth less than this share of a "
                "typical one. 0.01 to 0.1 make smaller files. 0 keeps all that the size allows.",
                most=1.0,
            ),
            own_number("rank_weight", "Weight of the rank loss (lambda_rank)."),
            own_number(
                "attention_weight",
                "Weight of the attention entropy (lambda_attn); paper mode only.",
            ),
            own_number(
                "rate_learning_rate", "Learning rate of nu, the numbers that decide the ranks."
            ),
            chain(),
        ]
