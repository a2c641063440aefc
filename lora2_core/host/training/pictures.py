"""Pictures that are trained on, as they came from the graph: latents, captions and masks, one of
each a picture. Videos and audio count as pictures here.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from .captions import flatten_conditioning
from .latents import Latent, flatten_latents


@dataclass(frozen=True)
class Pictures:
    """Holds what belongs to each picture, in lists of one length.

    latents: as the VAE made them.
    captions: one entry of a CONDITIONING (captions.py).
    mask_weights: how much each position counts [1, 1, height, width], None where all count alike.
    texts: the caption as text, None where nothing encodes it again.
    """

    latents: list[Latent]
    captions: list[list]
    mask_weights: list[Tensor | None]
    texts: list[str] | None = None

    @classmethod
    def of(cls, model, latents: list[dict], positive: list[list]) -> Pictures:
        """Returns the pictures of a list of LATENTs and their CONDITIONINGs, without masks. Raises
        ValueError where a model can't be trained on them.
        """
        pictures = flatten_latents(latents, model)
        captions = flatten_conditioning(positive, len(pictures))
        return cls(pictures, captions, [None] * len(pictures))
