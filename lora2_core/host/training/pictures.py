"""Pictures that are trained on, as they came from the graph: latents, captions and masks, one of
each a picture. Videos and audio count as pictures here.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

from torch import Tensor

from .captions import flatten_conditioning
from .latents import Latent, flatten_latents, names_of


@contextmanager
def naming(what: str) -> Iterator[None]:
    """Says of a ValueError from inside what it is about."""
    try:
        yield
    except ValueError as error:
        raise ValueError(f"{what}: {error}") from error


@dataclass(frozen=True)
class Pictures:
    """Holds what belongs to each picture, in lists of one length.

    latents: as the VAE made them.
    captions: one entry of a CONDITIONING (captions.py).
    mask_weights: how much each position counts [1, 1, height, width], None where all count alike.
    texts: the caption as text, None where nothing encodes it again.
    names: which picture it is: crops and copies of one have one name.
    """

    latents: list[Latent]
    captions: list[list]
    mask_weights: list[Tensor | None]
    texts: list[str] | None = None
    names: list[str] = field(default_factory=list)

    @classmethod
    def of(cls, model, latents: list[dict], positive: list[list]) -> Pictures:
        """Returns the pictures of a list of LATENTs and their CONDITIONINGs, without masks. Raises
        ValueError where a model can't be trained on them.
        """
        pictures = flatten_latents(latents, model)
        captions = flatten_conditioning(positive, len(pictures))
        return cls(pictures, captions, [None] * len(pictures), names=names_of(latents))

    def some(self, places: Sequence[int]) -> Pictures:
        """Returns the pictures at these places of the lists."""

        def at(values: list) -> list:
            return [values[i] for i in places]

        texts = self.texts and at(self.texts)
        lists = at(self.latents), at(self.captions), at(self.mask_weights)
        return Pictures(*lists, texts, at(self.names))
