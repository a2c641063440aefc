"""The loss masks of a folder's pictures: cropped, mirrored and scaled like the pictures, in the
size of the latents, and cached on disk by everything that they depend on.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import kornia.geometry.transform as geometry
import numpy as np
import torch
from einops import rearrange
from torch import Tensor

from ...dataset.buckets import Size
from ...dataset.cache import Cache, key_of
from ...dataset.crops import Crop
from ...dataset.plan import Planned
from ...dataset.reading import Unusable, decode_mask

# the version of decode, crop and resize: raise it when a change of them makes cached masks wrong
RECIPE = 2


def fitted_mask(mask: Tensor, crop: Crop, shape: tuple[int, int]) -> Tensor:
    """Returns the mask of a crop, [1, *shape]: means over areas of a picture's mask [1, 1, height,
    width], mirrored if the crop is.
    """
    rows, columns = (
        slice(crop.top, crop.top + crop.height),
        slice(crop.left, crop.left + crop.width),
    )
    fitted = geometry.resize(mask[..., rows, columns], shape, interpolation="area")
    fitted = geometry.hflip(fitted) if crop.flip else fitted
    return rearrange(fitted, "1 1 height width -> 1 height width").contiguous()


def uncropped_mask(data: bytes, size: Size, *, alpha: bool) -> Tensor:
    """Returns the mask of a picture before it is cropped, [1, 1, height, width] in the picture's
    size. data: the mask's file or, with `alpha`, the picture's, whose opacity is the mask.
    """
    pixels = decode_mask(data, alpha=alpha)
    mask = torch.from_numpy(np.ascontiguousarray(pixels))
    mask = rearrange(mask, "height width -> 1 1 height width")
    if mask.shape[-2:] != size[::-1]:
        mask = geometry.resize(mask, size[::-1], interpolation="bilinear", antialias=True)
    return mask.clamp(0, 1)


class MaskReader:
    """The masks of a folder's pictures. It counts the masks that were asked for, and the cached
    ones among them.
    """

    def __init__(self, cache: Cache):
        self.cache, self.asked, self.cached = cache, 0, 0
        self.blank: dict[tuple[int, int], Tensor] = {}

    def masks(
        self, planned: Planned, data: bytes, crops: Sequence[Crop], shape: tuple[int, int]
    ) -> list[Tensor]:
        """Returns a mask [1, *shape] for each crop: from the picture's mask file, else the opacity
        of the picture, else ones. data: the bytes of the picture's file.
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
        made, uncropped = [], None
        for crop in crops:
            key = key_of(*facts, vars(crop))
            self.asked += 1
            if (tensors := self.cache.read(key)) is not None:
                self.cached += 1
                made.append(tensors["mask"])
                continue
            if uncropped is None:
                try:
                    uncropped = uncropped_mask(data, size, alpha=alpha)
                except Unusable as reason:
                    raise Unusable(f"its mask is {reason}") from reason
            made.append(fitted_mask(uncropped, crop, shape))
            self.cache.write(key, {"mask": made[-1]})
        return made

    def ones(self, shape: tuple[int, int]) -> Tensor:
        """Returns a mask of ones; all pictures without a mask share one tensor."""
        return self.blank.setdefault(shape, torch.ones(1, *shape))

    def report(self) -> str:
        """Returns a line on how many masks came from the cache; "" without masks."""
        return f", {self.cached} of {self.asked} masks" if self.asked else ""
