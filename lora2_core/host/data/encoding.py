"""Pictures to latents and captions to conditioning, each cached on disk by everything that it
depends on.
"""

from __future__ import annotations

import hashlib
import json

import kornia.geometry.transform as geometry
import numpy as np
import torch
from einops import rearrange
from torch import Tensor

from ...dataset.buckets import Size
from ...dataset.cache import Cache, key_of
from ...dataset.crops import Crop

# the key in a conditioning under which its caption stands
CAPTION = "lora2_caption"
# the key in a LATENT under which the name of its picture stands
PICTURE = "lora2_picture"
# the version of crop, resize and encode: raise it when a change of them makes cached latents wrong
RECIPE = 1
# types of object patches that can be part of a model's identity
PLAIN = (torch.dtype, bool, int, float, str, type(None))
# values of each weight that enter a model's identity: reading all would take seconds
SAMPLES = 64


def fitted(picture: np.ndarray, crop: Crop, size: Size) -> Tensor:
    """Returns a picture, cropped, resized and mirrored, as [1, height, width, 3].

    picture: [height, width, 3] in [0, 1]. size: width and height to resize to.
    """
    box = picture[crop.top : crop.top + crop.height, crop.left : crop.left + crop.width]
    pixels = torch.from_numpy(np.ascontiguousarray(box))
    image = rearrange(pixels, "height width rgb -> 1 rgb height width")
    if (crop.width, crop.height) != size:
        image = geometry.resize(image, (size[1], size[0]), "bicubic", antialias=True)
    if crop.flip:
        image = geometry.hflip(image)
    return rearrange(image.clamp(0, 1), "1 rgb height width -> 1 height width rgb").contiguous()


def weights_identity(patcher) -> str | None:
    """Returns a hash of the name, shape and some values of every weight, and of the patches. None
    when weights can't be read, as in a model that streams them, or when more than the weights
    matters.
    """
    swaps = patcher.object_patches
    if patcher.injections or not all(isinstance(v, PLAIN) for v in swaps.values()):
        return None
    facts = f"{type(patcher.model).__name__} {sorted((k, str(v)) for k, v in swaps.items())}"
    digest, read = hashlib.sha256(facts.encode()), 0
    if patcher.patches:
        digest.update(str(patcher.patches_uuid).encode())
    for name, tensor in sorted(patcher.model.state_dict().items()):
        if name in patcher.backup:  # another clone's patches are on the weight just now
            tensor = patcher.backup[name].weight
        if type(tensor) not in (torch.Tensor, torch.nn.Parameter) or tensor.is_meta:
            return None
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        if tensor.numel():
            values = rearrange(tensor.detach(), "... -> (...)")
            values = values[:: max(1, tensor.numel() // SAMPLES)]
            digest.update(values.cpu().contiguous().view(torch.uint8).numpy().tobytes())
            read += 1
    return digest.hexdigest() if read else None


def vae_identity(vae) -> str | None:
    """Returns the identity of a VAE: everything that latents depend on beside the picture."""
    identity = weights_identity(vae.patcher)
    return identity and f"{identity} {vae.vae_dtype} {vae.spacial_compression_encode()}"


def clip_identity(clip) -> str | None:
    """Returns the identity of a CLIP: everything that a conditioning depends on beside the caption.
    None when hooks change it.
    """
    identity = weights_identity(clip.patcher)
    if identity is None or clip.patcher.forced_hooks is not None:
        return None
    tokenizer = type(clip.tokenizer).__name__
    return f"{identity} {tokenizer} {clip.layer_idx} {sorted(clip.tokenizer_options.items())}"


def to_tensors(conditioning: list) -> dict[str, Tensor] | None:
    """Returns a conditioning as named tensors; None when it holds other things than tensors and
    plain values.
    """
    tensors, plain = {}, []
    for index, (cross, facts) in enumerate(conditioning):
        parts = {"": cross} | facts
        tensors |= {f"{index}.{k}": v for k, v in parts.items() if torch.is_tensor(v)}
        plain.append({k: v for k, v in facts.items() if not torch.is_tensor(v)})
    try:
        text = json.dumps(plain)
    except (TypeError, ValueError):
        return None
    if json.loads(text) != plain:
        return None
    return tensors | {"plain": torch.tensor(list(text.encode()), dtype=torch.uint8)}


def from_tensors(tensors: dict[str, Tensor]) -> list:
    """Returns the conditioning of its `to_tensors`."""
    plain = json.loads(bytes(tensors["plain"].tolist()))
    conditioning = [[tensors[f"{index}."], dict(facts)] for index, facts in enumerate(plain)]
    for name, tensor in tensors.items():
        index, _, key = name.partition(".")
        if key:
            conditioning[int(index)][1][key] = tensor
    return conditioning


class Encoder:
    """A VAE and a text encoder with their cache. It counts the latents and captions that were asked
    for, and the cached ones among them.
    """

    def __init__(self, clip, vae, cache: Cache):
        self.clip, self.vae, self.cache = clip, vae, cache
        self.identities = vae_identity(vae), clip_identity(clip)
        self.latents = self.cached_latents = self.captions = self.cached_captions = 0
        self.conditionings: dict[str, list] = {}

    def known_latent(self, digest: str, crop: Crop, size: Size) -> Tensor | None:
        """Returns the cached latent of the picture file with this SHA-256, None without one."""
        self.latents += 1
        key = self.latent_key(digest, crop, size)
        tensors = self.cache.read(key) if key else None
        if tensors is None:
            return None
        self.cached_latents += 1
        return tensors["samples"]

    def latent_key(self, digest: str, crop: Crop, size: Size) -> str | None:
        """Returns the key of a latent in the cache; None when it can't be cached."""
        if self.identities[0] is None:
            return None
        return key_of("latent", RECIPE, digest, vars(crop), size, self.identities[0])

    def latent(self, picture: np.ndarray, digest: str, crop: Crop, size: Size) -> Tensor:
        """Encodes a decoded picture and returns its latent. Raises ValueError when the VAE gives
        NaN.
        """
        samples = self.vae.encode(fitted(picture, crop, size)).cpu()
        if not torch.isfinite(samples).all():
            raise ValueError("the VAE gives NaN: start ComfyUI with --fp32-vae or use another VAE.")
        if key := self.latent_key(digest, crop, size):
            self.cache.write(key, {"samples": samples})
        return samples

    def conditioning(self, caption: str) -> list:
        """Returns the conditioning of a caption, with the caption under CAPTION. Each caption is
        encoded once.
        """
        if caption not in self.conditionings:
            self.captions += 1
            made = self.encode_caption(caption)
            named = [[cross, facts | {CAPTION: caption}] for cross, facts in made]
            self.conditionings[caption] = named
        return self.conditionings[caption]

    def encode_caption(self, caption: str) -> list:
        """Returns the conditioning of a caption, from the cache if it is there. Captions with
        embeddings are not cached, since the files of embeddings may change.
        """
        key = None
        if self.identities[1] is not None and "embedding:" not in caption:
            key = key_of("caption", RECIPE, caption, self.identities[1])
        if key and (tensors := self.cache.read(key)) is not None:
            self.cached_captions += 1
            return from_tensors(tensors)
        conditioning = self.clip.encode_from_tokens_scheduled(self.clip.tokenize(caption))
        tensors = to_tensors(conditioning) if key else None
        if tensors is not None:
            self.cache.write(key, tensors)
        return conditioning

    def report(self) -> str:
        """Returns a line on how much came from the cache."""
        return (
            f"cache: {self.cached_latents} of {self.latents} latents, "
            f"{self.cached_captions} of {self.captions} captions"
        )
