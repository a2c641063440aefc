"""LoRA² Data Options: the subject's class, and which parts of the pictures count."""

from __future__ import annotations

from comfy_api.latest import io

from ..inputs import number
from .base import OptionsNode, chain


class LoRA2DataOptions(OptionsNode):
    node_id = "LoRA2DataOptions"
    title = "Data Options"
    description = (
        "Prior preservation: also trains on pictures of the subject's class, so that the model "
        "still draws the class as before. Preservation does the same without such pictures. Masks: "
        "which parts of the pictures count in the loss."
    )
    aliases = [
        "regularization images", "regularisation", "prior preservation", "class images",
        "masked loss", "loss mask", "differential output preservation", "preserve class",
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
            io.String.Input(
                "preserve_prompt",
                default="",
                optional=True,
                tooltip="sks dog = dog: with dog in the place of sks dog in each caption, the "
                "model is kept as it was. Without =: a caption of the class, for all pictures. "
                "Empty: off.",
            ),
            number(
                "preserve_weight",
                default=1.0,
                max=1000.0,
                optional=True,
                tooltip="Weight of the difference from the model without the adapter. 0: off.",
            ),
            io.Clip.Input(
                "preserve_clip",
                optional=True,
                tooltip="Encodes the captions of preserve_prompt: the CLIP of the model.",
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
        preserve_prompt: str = "",
        preserve_weight: float = 1.0,
        preserve_clip: list | None = None,
    ) -> dict:
        """Returns settings only for what is connected or filled in. So one node for the prior and
        one for masks can be chained.
        """
        settings = {}
        if prior_latents is not None or prior_positive is not None:
            settings |= {"prior_latents": prior_latents, "prior_positive": prior_positive}
            settings |= {"prior_weight": prior_weight}
        if masks is not None:
            settings |= {"masks": masks, "mask_blur": mask_blur, "mask_floor": mask_floor}
        if preserve_prompt.strip():
            clip = preserve_clip[0] if preserve_clip else None
            own = {"preserve_prompt": preserve_prompt, "preserve_weight": preserve_weight}
            settings |= own | {"preserve_clip": clip}
        return settings
