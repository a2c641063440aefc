"""What an edit model gets beside the noise: the sources of a picture, or the picture without what
is to be filled in, given to the conditioning as the host's own nodes do.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial

import comfy.text_encoders.qwen_image
import node_helpers
import numpy as np
from einops import rearrange
from torch import Tensor

from ...dataset.cache import digest_of, key_of
from ...dataset.crops import Crop
from ...dataset.plan import (
    AUTO,
    INPAINT,
    LATENTS,
    PIX2PIX,
    QWEN_EDIT,
    QWEN_EDIT_PLUS,
    DatasetSettings,
    Planned,
)
from ...dataset.reading import Unusable, decode
from ...dataset.sources import boxes, own_bucket
from .encoding import CAPTION, RECIPE, Encoder, fitted, from_tensors, to_tensors
from .picture_masks import MaskReader

# in a caption's facts: the text encoder has seen pictures too, so text alone does not encode it
SEEN = "lora2_seen"
GREY = 0.5  # what the host puts where an inpainting model is to paint


@dataclass(frozen=True)
class Reference:
    """Holds what one crop of a picture is made of.

    key: tells it from others, as JSON. latents: of the sources, [1, channels, ...] each. values: of
    the conditioning, by name. pictures: decodes what the text encoder sees, [1, height, width, 3]
    each.
    """

    key: tuple = ()
    latents: tuple[Tensor, ...] = ()
    values: dict = field(default_factory=dict)
    pictures: Callable[[], list[Tensor]] | None = None


@dataclass
class Source:
    """A source file, decoded only when a crop of it is not cached."""

    data: bytes
    decoded: np.ndarray | None = None

    @property
    def digest(self) -> str:
        """Returns the SHA-256 of the file."""
        return hashlib.sha256(self.data).hexdigest()

    def crop(self, box: Crop, size: tuple[int, int]) -> Tensor:
        """Returns a crop [1, height, width, 3] in [0, 1]."""
        return fitted(self.pixels(), box, size)

    def pixels(self) -> np.ndarray:
        """Returns the decoded picture. Raises Unusable when it can't be read."""
        if self.decoded is None:
            try:
                self.decoded = decode(self.data)
            except Unusable as reason:
                raise Unusable(f"its source is {reason}") from reason
        return self.decoded


def kind_for(clip, settings: DatasetSettings) -> str:
    """Returns how the model gets the sources: as chosen, else by its text encoder."""
    if settings.references != AUTO:
        return settings.references
    qwen = comfy.text_encoders.qwen_image.QwenImageTokenizer
    return QWEN_EDIT_PLUS if isinstance(clip.tokenizer, qwen) else LATENTS


def method_for(clip) -> dict:
    """Returns what captions say of how references are seen: Krea 2 looks at none without it."""
    named = type(clip.tokenizer).__name__ == "Krea2Tokenizer"  # older hosts lack it
    return {"reference_latents_method": "index_timestep_zero"} if named else {}


class References:
    """Makes the references of a folder's pictures, and gives them to captions. step_of: gives the
    pixels that the sides of pictures are multiples of at a resolution.
    """

    def __init__(
        self,
        settings: DatasetSettings,
        encoder: Encoder,
        masks: MaskReader,
        step_of: Callable[[int], int],
    ):
        self.settings, self.encoder, self.masks, self.step_of = settings, encoder, masks, step_of
        self.kind = kind_for(encoder.clip, settings)
        self.method = method_for(encoder.clip)
        self.made: dict[tuple, list] = {}

    def of(self, planned: Planned, data: bytes, crops: Sequence[Crop]) -> list[Reference]:
        """Returns a reference for each crop of a picture; an empty one where it has no source.
        data: the bytes of the picture's file. Raises Unusable when a source can't be read.
        """
        if self.kind == INPAINT:
            return self.inpainted(planned, data, crops)
        columns = [self.of_source(planned, number, crops) for number in range(len(planned.sources))]
        if not columns:
            return [Reference()] * len(crops)
        return [self.joined(parts) for parts in zip(*columns, strict=True)]

    def of_source(
        self, planned: Planned, number: int, crops: Sequence[Crop]
    ) -> list[tuple[tuple, Tensor, Callable[[], Tensor]]]:
        """Returns for each crop: a key, the latent of a source, and what decodes its pixels."""
        seen, settings = planned.sources[number], self.settings
        resolution = planned.resolution
        step = self.step_of(resolution)
        own = own_bucket(seen, resolution, step, square=not settings.buckets)
        fits, size = boxes(list(crops), planned.seen, seen, planned.bucket, own)
        try:
            source = Source(planned.picture.sources[number].read_bytes())
        except OSError as error:
            raise Unusable("its source is unreadable") from error
        digest = source.digest
        found: list[tuple[tuple, Tensor, Callable[[], Tensor]]] = []
        for box in fits:
            latent = self.encoder.known_latent(digest, box, size)
            if latent is None:
                latent = self.encoder.latent(source.pixels(), digest, box, size)
            found.append(((digest, vars(box), size), latent, partial(source.crop, box, size)))
        return found

    def joined(self, parts: tuple) -> Reference:
        """Returns the reference that the sources of one crop make."""
        key = self.kind, *(part[0] for part in parts)
        latents = tuple(part[1] for part in parts)
        if self.kind == PIX2PIX:
            return Reference(key, values={"concat_latent_image": latents[0]})
        if self.kind == LATENTS:
            return Reference((*key, self.method), latents, self.method)
        return Reference(key, latents, pictures=lambda: [part[2]() for part in parts])

    def inpainted(self, planned: Planned, data: bytes, crops: Sequence[Crop]) -> list[Reference]:
        """Returns the picture without what is white in its mask, and the mask, for each crop: as
        the host's InpaintModelConditioning makes them.
        """
        width, height = planned.bucket
        picture, digest = Source(data), hashlib.sha256(data).hexdigest()
        found = []
        masks = self.masks.masks(planned, data, crops, (height, width))
        for box, mask in zip(crops, masks, strict=True):
            painted = digest_of({"mask": mask}).tolist()
            identity = self.encoder.identities[0]
            key = INPAINT, digest, vars(box), planned.bucket, painted, identity
            cached = key_of(RECIPE, *key) if identity else None
            known = self.encoder.cache.read(cached) if cached else None
            if known is None:
                kept = rearrange(1 - mask.round(), "1 h w -> 1 h w 1")
                pixels = (picture.crop(box, planned.bucket) - GREY) * kept + GREY
                known = {"samples": self.encoder.vae.encode(pixels).cpu()}
                if cached:
                    self.encoder.cache.write(cached, known)
            values = {"concat_latent_image": known["samples"], "concat_mask": mask[None]}
            found.append(Reference(key, values=values))
        return found

    def conditioning(self, caption: str, reference: Reference) -> list:
        """Returns the conditioning of a caption with a reference, each of both made once."""
        key = caption, repr(reference.key)
        if key not in self.made:
            self.made[key] = self.given(self.encoded(caption, reference), reference)
        return self.made[key]

    def encoded(self, caption: str, reference: Reference) -> list:
        """Returns the conditioning of a caption by a text encoder that may see the sources."""
        if reference.pictures is None:
            return self.encoder.conditioning(caption)
        encoder, identity = self.encoder, self.encoder.identities[1]
        key = identity and key_of("seen caption", RECIPE, caption, identity, reference.key)
        encoder.captions += 1
        if key and (tensors := encoder.cache.read(key)) is not None:
            encoder.cached_captions += 1
            return from_tensors(tensors)
        made = seen(self.kind, encoder.clip, caption, reference.pictures())
        made = node_helpers.conditioning_set_values(made, {CAPTION: caption, SEEN: True})
        if key and (tensors := to_tensors(made)) is not None:
            encoder.cache.write(key, tensors)
        return made

    def given(self, conditioning: list, reference: Reference) -> list:
        """Returns a conditioning with what a reference gives to it, as the host's nodes
        ReferenceLatent and InstructPixToPixConditioning do.
        """
        for latent in reference.latents:
            conditioning = node_helpers.conditioning_set_values(
                conditioning, {"reference_latents": [latent]}, append=True
            )
        return node_helpers.conditioning_set_values(conditioning, reference.values)


def seen(kind: str, clip, caption: str, pictures: list[Tensor]) -> list:
    """Returns the conditioning of a caption and the pictures that it is about, by the host's nodes
    TextEncodeQwenImageEdit and TextEncodeQwenImageEditPlus.
    """
    from comfy_extras import nodes_qwen  # older hosts lack one of the two

    if kind == QWEN_EDIT:
        out = nodes_qwen.TextEncodeQwenImageEdit.execute(clip, caption, image=pictures[0])
    else:
        images = {f"image{number}": picture for number, picture in enumerate(pictures, 1)}
        out = nodes_qwen.TextEncodeQwenImageEditPlus.execute(clip, caption, **images)
    return out.result[0]
