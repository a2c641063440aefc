"""Encodes pictures to latents and captions to conditionings. Each result is cached on disk, under a
key made of everything that it depends on.
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

# the key under which a conditioning holds its caption as text
CAPTION = "lora2_caption"
# the key in a LATENT under which the name of its picture stands
PICTURE = "lora2_picture"
# the version of the steps from a picture or caption to its cached result. Raise it when a change of
# these steps makes old cached results wrong
RECIPE = 1
# types of object patches whose text says all about them. A model with any other patch is not cached
PLAIN = (torch.dtype, bool, int, float, str, type(None))
# values of each weight that are hashed. Reading all values would take seconds
SAMPLES = 64


def fitted(picture: np.ndarray, crop: Crop, size: Size) -> Tensor:
    """Cuts a picture to a crop, resizes and mirrors it. Returns [1, height, width, 3] in [0, 1].

    picture: [height, width, 3] in [0, 1]. size: width and height of the result in pixels.
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
    """Returns a hash of a model: name, shape and some values of each weight, and its patches.

    Returns None when no hash can tell what the model does: its weights can't be read, because they
    are loaded piece by piece while it runs, or code patches and injections change it.
    """
    swaps = patcher.object_patches
    if patcher.injections or not all(isinstance(v, PLAIN) for v in swaps.values()):
        return None
    facts = f"{type(patcher.model).__name__} {sorted((k, str(v)) for k, v in swaps.items())}"
    digest, read = hashlib.sha256(facts.encode()), 0
    if patcher.patches:
        digest.update(str(patcher.patches_uuid).encode())
    for name, tensor in sorted(patcher.model.state_dict().items()):
        if name in patcher.backup:  # the weight holds patches now: take it without them
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
    """Returns a text that is the same for VAEs that give the same latents, or None as
    `weights_identity` does.
    """
    identity = weights_identity(vae.patcher)
    return identity and f"{identity} {vae.vae_dtype} {vae.spacial_compression_encode()}"


def clip_identity(clip) -> str | None:
    """Returns a text that is the same for CLIPs that encode captions in the same way. Returns None
    when hooks change the CLIP, or as `weights_identity` does.
    """
    identity = weights_identity(clip.patcher)
    if identity is None or clip.patcher.forced_hooks is not None:
        return None
    tokenizer = type(clip.tokenizer).__name__
    return f"{identity} {tokenizer} {clip.layer_idx} {sorted(clip.tokenizer_options.items())}"


def to_tensors(conditioning: list) -> dict[str, Tensor] | None:
    """Returns a conditioning as named tensors, as a file can hold them. Returns None when it has a
    value that is neither a tensor nor exact in JSON.
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
    """Returns the conditioning that `to_tensors` made these tensors of."""
    plain = json.loads(bytes(tensors["plain"].tolist()))
    conditioning = [[tensors[f"{index}."], dict(facts)] for index, facts in enumerate(plain)]
    for name, tensor in tensors.items():
        index, _, key = name.partition(".")
        if key:
            conditioning[int(index)][1][key] = tensor
    return conditioning


class Encoder:
    """Encodes pictures with a VAE and captions with a text encoder, and uses a cache for both. It
    counts how many latents and captions it was asked for, and how many of them were cached.
    """

    def __init__(self, clip, vae, cache: Cache):
        self.clip, self.vae, self.cache = clip, vae, cache
        self.identities = vae_identity(vae), clip_identity(clip)
        self.latents = self.cached_latents = self.captions = self.cached_captions = 0
        self.conditionings: dict[str, list] = {}

    def known_latent(self, digest: str, crop: Crop, size: Size) -> Tensor | None:
        """Returns the cached latent of a crop of a picture, or None. `digest` is the SHA-256 of the
        picture's file.
        """
        self.latents += 1
        key = self.latent_key(digest, crop, size)
        tensors = self.cache.read(key) if key else None
        if tensors is None:
            return None
        self.cached_latents += 1
        return tensors["samples"]

    def latent_key(self, digest: str, crop: Crop, size: Size) -> str | None:
        """Returns the key of a latent in the cache; None when the VAE's latents can't be cached."""
        if self.identities[0] is None:
            return None
        return key_of("latent", RECIPE, digest, vars(crop), size, self.identities[0])

    def latent(self, picture: np.ndarray, digest: str, crop: Crop, size: Size) -> Tensor:
        """Encodes a crop of a decoded picture, writes the latent to the cache and returns it.
        Raises ValueError when the VAE gives values that are not finite.
        """
        samples = self.vae.encode(fitted(picture, crop, size)).cpu()
        if not torch.isfinite(samples).all():
            raise ValueError("the VAE gives NaN: start ComfyUI with --fp32-vae or use another VAE.")
        if key := self.latent_key(digest, crop, size):
            self.cache.write(key, {"samples": samples})
        return samples

    def conditioning(self, caption: str) -> list:
        """Returns the conditioning of a caption; the key CAPTION in it holds the caption. Each
        caption is encoded only once.
        """
        if caption not in self.conditionings:
            self.captions += 1
            made = self.encode_caption(caption)
            named = [[cross, facts | {CAPTION: caption}] for cross, facts in made]
            self.conditionings[caption] = named
        return self.conditionings[caption]

    def encode_caption(self, caption: str) -> list:
        """Returns the conditioning of a caption, from the cache if it is there. A caption that
        names an embedding is never cached, since the file of the embedding may change.
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
        """Returns a line that says how many latents and captions came from the cache."""
        return (
            f"cache: {self.cached_latents} of {self.latents} latents, "
            f"{self.cached_captions} of {self.captions} captions"
        )
