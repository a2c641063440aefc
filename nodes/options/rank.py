"""LoRA² Rank Options: how ranks are learned."""

from __future__ import annotations

from comfy_api.latest import io

from ...lora2_core.ranks.settings import INITS
from ..inputs import number
from .base import AUTO, OWN, OptionsNode, chain


def own_number(name: str, tooltip: str, most: float = 1000.0) -> io.Float.Input:
    """Makes a number field that stands for the mode's own value at first."""
    tooltip = f"{tooltip} -1: the mode's own value."
    return number(name, default=OWN, min=OWN, max=most, step=1e-6, tooltip=tooltip)


class LoRA2RankOptions(OptionsNode):
    node_id = "LoRA2RankOptions"
    title = "Rank Options"
    description = (
        "Every hyper-parameter of rank learning. The defaults are the values of the mode that "
        "LoRA\u00b2 Train is set to."
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
                tooltip="Share of all importance that lies inside a layer's rank. -1: the mode's "
                "own value (paper 0.9, adaptive 0.3).",
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
                tooltip="Scale of lora_down at the start. auto: the mode's own.",
            ),
            own_number(
                "tolerance",
                "adaptive: rank positions that are worth less than this share of a typical one are "
                "given up. 0.01 to 0.1 make smaller files; 0 keeps all that the size allows.",
                most=1.0,
            ),
            own_number("rank_weight", "Weight of the rank loss (lambda_rank); paper mode only."),
            own_number(
                "attention_weight",
                "Weight of the attention entropy (lambda_attn); paper mode only.",
            ),
            own_number(
                "rate_learning_rate",
                "Learning rate of the rates (nu) that ranks are learned by; paper mode only.",
            ),
            chain(),
        ]
