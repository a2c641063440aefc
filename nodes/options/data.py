"""LoRA² Data Options: pictures of the subject's class, and which parts of the pictures count."""

from __future__ import annotations

from comfy_api.latest import io

from ..inputs import number
from .base import OptionsNode, chain


class LoRA2DataOptions(OptionsNode):
    node_id = "LoRA2DataOptions"
    title = "Data Options"
    description = (
        "Prior preservation: also trains on pictures of the subject's class, so that the model "
        "still draws the class as before. Masks: which parts of the pictures count in the loss."
    )
    aliases = [
        "regularization images", "regularisation", "prior preservation", "class images",
        "masked loss", "loss mask",
    ]  # fmt: skip
    takes_lists = True

    @classmethod
    def fields(cls) -> list[io.Input]:
        return [
            io.Latent.Input(
                "prior_latents",
                optional=True,
                tooltip="Pictures of the class, such as samples of the model itself: one batch, or "
                "the list of a dataset node.",
            ),
            io.Conditioning.Input(
                "prior_positive",
                optional=True,
                tooltip="Their captions, without the subject's name: one for all, or one for each.",
            ),
            io.Mask.Input(
                "masks",
                optional=True,
                tooltip="White counts fully, black as much as mask_floor. One mask for all "
                "pictures, or one for each, with the shape of its picture.",
            ),
            chain(),
            number(
                "prior_weight",
                default=1.0,
                max=1000.0,
                tooltip="Weight of the prior's loss beside the subject's loss. 0: no prior.",
            ),
            number(
                "mask_blur",
                default=0.0,
                max=100.0,
                step=0.1,
                tooltip="Softens the edges of the masks: the standard deviation of a Gaussian in "
                "pixels of the latent. One latent pixel is 8 pixels of an SDXL picture.",
            ),
            number(
                "mask_floor",
                default=0.1,
                max=1.0,
                tooltip="How much the black parts of a mask count. 0: not at all, so the model "
                "learns nothing about them and may draw anything there.",
            ),
        ]

    @classmethod
    def settings(
        cls,
        prior_weight: float,
        mask_blur: float,
        mask_floor: float,
        prior_latents: list | None = None,
        prior_positive: list | None = None,
        masks: list | None = None,
    ) -> dict:
        """Returns settings only for the inputs that are connected. So one node for the prior and
        one for masks can be chained.
        """
        settings = {}
        if prior_latents is not None or prior_positive is not None:
            settings |= {"prior_latents": prior_latents, "prior_positive": prior_positive}
            settings |= {"prior_weight": prior_weight}
        if masks is not None:
            settings |= {"masks": masks, "mask_blur": mask_blur, "mask_floor": mask_floor}
        return settings
