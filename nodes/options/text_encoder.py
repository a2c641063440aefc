"""LoRA² Text Encoder Options: chooses how LoRA² Train trains the text encoder."""

from __future__ import annotations

from comfy_api.latest import io

from ...lora2_core.host.training.text_encoder import ATTENTION, OWN
from ..inputs import number
from .base import OptionsNode, chain


class LoRA2TextEncoderOptions(OptionsNode):
    node_id = "LoRA2TextEncoderOptions"
    title = "Text Encoder Options"
    description = (
        "Chooses how the text encoder is trained together with the model, if clip is connected to "
        "LoRA\u00b2 Train."
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
                tooltip="Learning rate of the text encoder, with the same schedule as the "
                "model's. -1: half of LoRA\u00b2 Train's learning_rate.",
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
                tooltip="The captions as text: one for all pictures, or one for each. Not needed "
                "with LoRA\u00b2 Dataset, whose positive has them.",
            ),
            io.String.Input(
                "prior_captions",
                optional=True,
                force_input=True,
                tooltip="The captions of the prior pictures in LoRA\u00b2 Data Options as text: "
                "one for all pictures, or one for each.",
            ),
            chain(),
        ]
