"""LoRA² Data Options: what is to be preserved, and which places of the pictures count."""

from __future__ import annotations

from comfy_api.latest import io

from .common import CATEGORY, Lora2Options, first
from .fields import checked
from .options import extend
from .training_options import number


class LoRA2DataOptions(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="LoRA2DataOptions",
            display_name="LoRA\u00b2 Data Options",
            category=CATEGORY,
            description="Prior preservation: pictures of the subject's class are trained beside "
            "it, so that the class stays what it was. Masks: which places of the pictures count.",
            search_aliases=[
                "regularization images", "regularisation", "prior preservation", "class images",
                "masked loss", "loss mask",
            ],
            is_input_list=True,
            inputs=[
                io.Latent.Input(
                    "prior_latents",
                    optional=True,
                    tooltip="Pictures of the class, such as samples of the model itself: one "
                    "batch, or the list of a dataset node.",
                ),
                io.Conditioning.Input(
                    "prior_positive",
                    optional=True,
                    tooltip="Their captions, without the subject's name: one for all, or one for "
                    "each.",
                ),
                io.Mask.Input(
                    "masks",
                    optional=True,
                    tooltip="White counts, black only as much as mask_floor. One for all "
                    "pictures, or one for each, in the shape of its picture.",
                ),
                Lora2Options.Input("options", optional=True, tooltip="More options, chained."),
                number(
                    "prior_weight",
                    1.0,
                    1000.0,
                    "Weight of the prior's loss beside that of the subject. 0: no prior.",
                ),
                number(
                    "mask_blur",
                    0.0,
                    100.0,
                    "Softens the edges of masks: the standard deviation of a Gaussian, in pixels "
                    "of the latent (8 of an SDXL picture).",
                    0.1,
                ),
                number(
                    "mask_floor",
                    0.1,
                    1.0,
                    "How much a place counts that is masked out. 0: nothing, so that anything may "
                    "appear there.",
                ),
            ],
            outputs=[Lora2Options.Output(display_name="options")],
        )  # fmt: skip

    @classmethod
    @checked
    def execute(
        cls,
        prior_weight,
        mask_blur,
        mask_floor,
        prior_latents=None,
        prior_positive=None,
        masks=None,
        options=None,
    ) -> io.NodeOutput:
        changes = {}
        if prior_latents is not None or prior_positive is not None:
            changes |= {"prior_weight": first("prior_weight", prior_weight)}
            changes |= {"prior_latents": prior_latents, "prior_positive": prior_positive}
        if masks is not None:
            changes |= {"masks": masks, "mask_blur": first("mask_blur", mask_blur)}
            changes |= {"mask_floor": first("mask_floor", mask_floor)}
        return io.NodeOutput(extend((options or [None])[0], **changes))


NODES = [LoRA2DataOptions]
