"""LoRA² Text Encoder Options: how the text encoder is trained, where clip is connected to Train."""

from __future__ import annotations

from comfy_api.latest import io

from ..lora2_core.host.training.text_encoder import ATTENTION, OWN
from .common import CATEGORY, Lora2Options, check_options, first
from .fields import checked


class LoRA2TextEncoderOptions(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="LoRA2TextEncoderOptions",
            display_name="LoRA\u00b2 Text Encoder Options",
            category=CATEGORY,
            description="How the text encoder is trained beside the model, where clip is connected "
            "to LoRA\u00b2 Train.",
            search_aliases=["train text encoder", "train clip", "text encoder learning rate"],
            is_input_list=True,
            inputs=[
                io.Float.Input(
                    "learning_rate",
                    default=OWN,
                    min=OWN,
                    max=10.0,
                    step=1e-7,
                    round=1e-9,
                    tooltip="Of the text encoder; it follows the same schedule. -1: half of "
                    "LoRA\u00b2 "
                    "Train's.",
                ),
                io.String.Input(
                    "targets",
                    default=ATTENTION,
                    tooltip="Python regular expression, searched in names such as "
                    "lora_te1_text_model_encoder_layers_0_self_attn_q_proj. self_attn|mlp: the "
                    "feed-forward too. te1.*self_attn: the first of two text encoders only.",
                ),
                io.String.Input(
                    "captions",
                    optional=True,
                    force_input=True,
                    tooltip="The texts of the pictures, one for all or one for each; LoRA\u00b2 "
                    "Dataset "
                    "says them by itself.",
                ),
                io.String.Input(
                    "prior_captions",
                    optional=True,
                    force_input=True,
                    tooltip="The texts of the prior in LoRA\u00b2 Data Options, likewise.",
                ),
                Lora2Options.Input("options", optional=True, tooltip="More options, chained."),
            ],
            outputs=[Lora2Options.Output(display_name="options")],
        )

    @classmethod
    @checked
    def execute(
        cls, learning_rate, targets, captions=None, prior_captions=None, options=None
    ) -> io.NodeOutput:
        changes = {"text_learning_rate": first("learning_rate", learning_rate)}
        changes |= {"text_targets": first("targets", targets)}
        texts = {"captions": captions, "prior_captions": prior_captions}
        changes |= {name: given for name, given in texts.items() if given is not None}
        return io.NodeOutput({**check_options((options or [None])[0]), **changes})


NODES = [LoRA2TextEncoderOptions]
