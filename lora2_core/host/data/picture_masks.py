"""Loss masks of a folder's pictures: cropped, mirrored and scaled as their pictures were, in the
size of the latents, and remembered on disk by what they depend on.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import kornia.geometry.transform as geometry
import numpy as np
import torch
from torch import Tensor

from ...dataset.buckets import Size
from ...dataset.cache import Cache, key_of
from ...dataset.crops import Crop
from ...dataset.plan import Planned
from ...dataset.reading import Unusable, decode_mask

RECIPE = 2  # of decode, crop and resize: raised when a change of them makes old masks stale


def fitted_mask(mask: Tensor, crop: Crop, shape: tuple[int, int]) -> Tensor:
    """Returns a mask [1, 1, height, width] of a whole picture as [1, *shape], its areas' means in
    the picture's box, mirrored as the picture is.
    """
    rows, columns = (
        slice(crop.top, crop.top + crop.height),
        slice(crop.left, crop.left + crop.width),
    )
    fitted = geometry.resize(mask[..., rows, columns], shape, interpolation="area")
    return (geometry.hflip(fitted) if crop.flip else fitted)[0].contiguous()


def whole_mask(data: bytes, size: Size, *, alpha: bool) -> Tensor:
    """Returns a mask's file, or a picture's transparency, as [1, 1, height, width] of the picture's
    own size.
    """
    pixels = decode_mask(data, alpha=alpha)
    mask = torch.from_numpy(np.ascontiguousarray(pixels))[None, None]
    if mask.shape[-2:] != size[::-1]:
        mask = geometry.resize(mask, size[::-1], interpolation="bilinear", antialias=True)
    return mask.clamp(0, 1)


class MaskReader:
    """The masks of one folder's pictures; counts what was asked and what was remembered."""

    def __init__(self, cache: Cache):
        self.cache, self.asked, self.found = cache, 0, 0
        self.blank: dict[tuple[int, int], Tensor] = {}

    def masks(
        self, planned: Planned, data: bytes, crops: Sequence[Crop], shape: tuple[int, int]
    ) -> list[Tensor]:
        """Returns one mask [1, *shape] a crop, from the picture's mask file, else from its
        transparency, which counts by its opacity, else ones. `data` is the picture's file.
        """
        alpha = planned.picture.mask is None
        if alpha and not planned.seen.transparent:
            return [self.ones(shape)] * len(crops)
        if not alpha:
            try:
                data = planned.picture.mask.read_bytes()
            except OSError as error:
                raise Unusable("its mask is unreadable") from error
        size = planned.seen.width, planned.seen.height
        facts = "mask", RECIPE, hashlib.sha256(data).hexdigest(), alpha, size, shape
        made, whole = [], None
        for crop in crops:
            key = key_of(*facts, vars(crop))
            self.asked += 1
            if (tensors := self.cache.read(key)) is not None:
                self.found += 1
                made.append(tensors["mask"])
                continue
            if whole is None:
                try:
                    whole = whole_mask(data, size, alpha=alpha)
                except Unusable as reason:
                    raise Unusable(f"its mask is {reason}") from reason
            made.append(fitted_mask(whole, crop, shape))
            self.cache.write(key, {"mask": made[-1]})
        return made

    def ones(self, shape: tuple[int, int]) -> Tensor:
        """Returns one tensor for all pictures without a mask."""
        return self.blank.setdefault(shape, torch.ones(1, *shape))

    def report(self) -> str:
        """Returns how much was remembered, "" where there was nothing to ask for."""
        return f", {self.found} of {self.asked} masks" if self.asked else ""
