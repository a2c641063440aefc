"""LoRA² Text Encoder Options: how the text encoder is trained, where clip is connected to Train."""

from __future__ import annotations

from comfy_api.latest import io

from ...lora2_core.host.training.text_encoder import ATTENTION, OWN
from ..inputs import number
from .base import OptionsNode, chain


class LoRA2TextEncoderOptions(OptionsNode):
    node_id = "LoRA2TextEncoderOptions"
    title = "Text Encoder Options"
    description = (
        "How the text encoder is trained beside the model, where clip is connected to LoRA\u00b2 "
        "Train."
    )
    aliases = ["train text encoder", "train clip", "text encoder learning rate"]
    takes_lists = True
    renamed = {"learning_rate": "text_learning_rate", "targets": "text_targets"}

    @classmethod
    def fields(cls) -> list[io.Input]:
        return [
            number(
                "learning_rate",
                default=OWN,
                min=OWN,
                max=10.0,
                step=1e-7,
                tooltip="Learning rate of the text encoder. It follows the same schedule. -1: half "
                "of LoRA\u00b2 Train's.",
            ),
            io.String.Input(
                "targets",
                default=ATTENTION,
                tooltip="Python regular expression, searched in names such as "
                "lora_te1_text_model_encoder_layers_0_self_attn_q_proj. self_attn|mlp: the "
                "feed-forward layers too. te1.*self_attn: only the first of two text encoders.",
            ),
            io.String.Input(
                "captions",
                optional=True,
                force_input=True,
                tooltip="The texts of the pictures: one for all, or one for each. LoRA\u00b2 "
                "Dataset passes them on by itself.",
            ),
            io.String.Input(
                "prior_captions",
                optional=True,
                force_input=True,
                tooltip="The texts of the prior pictures in LoRA\u00b2 Data Options, in the same "
                "form.",
            ),
            chain(),
        ]
