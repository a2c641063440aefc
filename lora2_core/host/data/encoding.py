"""Pictures to latents and captions to conditioning, each remembered on disk by what it depends
on.
"""

from __future__ import annotations

import hashlib
import json

import kornia.geometry.transform as geometry
import numpy as np
import torch
from torch import Tensor

from ...dataset.buckets import Size
from ...dataset.cache import Cache, key_of
from ...dataset.crops import Crop

CAPTION = "lora2_caption"  # in a conditioning, beside what it says: the text that it encodes
RECIPE = 1  # of crop, resize and encode: raised when a change of them makes old latents stale
PLAIN = (torch.dtype, bool, int, float, str, type(None))
SAMPLES = 64  # values of each weight that tell one model from another


def fitted(picture: np.ndarray, crop: Crop, size: Size) -> Tensor:
    """Returns [height, width, 3] in [0, 1] cropped, mirrored and resized to [1, *size turned,
    3].
    """
    box = picture[crop.top : crop.top + crop.height, crop.left : crop.left + crop.width]
    image = torch.from_numpy(np.ascontiguousarray(box)).movedim(-1, 0)[None]
    if (crop.width, crop.height) != size:
        image = geometry.resize(image, (size[1], size[0]), "bicubic", antialias=True)
    if crop.flip:
        image = geometry.hflip(image)
    return image.clamp(0, 1).movedim(1, -1).contiguous()


def weights_identity(patcher) -> str | None:
    """Returns a hash of every weight's name, shape and some values, and of the patches on them;
    None when weights can't be read, as those of a model that streams them, or are not all that
    counts.
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
            values = tensor.detach().reshape(-1)[:: max(1, tensor.numel() // SAMPLES)]
            digest.update(values.cpu().contiguous().view(torch.uint8).numpy().tobytes())
            read += 1
    return digest.hexdigest() if read else None


def vae_identity(vae) -> str | None:
    """Returns what latents depend on besides the picture."""
    identity = weights_identity(vae.patcher)
    return identity and f"{identity} {vae.vae_dtype} {vae.spacial_compression_encode()}"


def clip_identity(clip) -> str | None:
    """Returns what conditioning depends on besides the caption; None when hooks change it."""
    identity = weights_identity(clip.patcher)
    if identity is None or clip.patcher.forced_hooks is not None:
        return None
    tokenizer = type(clip.tokenizer).__name__
    return f"{identity} {tokenizer} {clip.layer_idx} {sorted(clip.tokenizer_options.items())}"


def to_tensors(conditioning: list) -> dict[str, Tensor] | None:
    """Returns a conditioning as named tensors; None when it holds anything but tensors and plain
    values.
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
    """Returns the conditioning that to_tensors took apart."""
    plain = json.loads(bytes(tensors["plain"].tolist()))
    conditioning = [[tensors[f"{index}."], dict(facts)] for index, facts in enumerate(plain)]
    for name, tensor in tensors.items():
        index, _, key = name.partition(".")
        if key:
            conditioning[int(index)][1][key] = tensor
    return conditioning


class Encoder:
    """A VAE and a text encoder with their memory; counts what was asked and what was remembered."""

    def __init__(self, clip, vae, cache: Cache):
        self.clip, self.vae, self.cache = clip, vae, cache
        self.identities = vae_identity(vae), clip_identity(clip)
        self.latents = self.latents_found = self.captions = self.captions_found = 0
        self.conditionings: dict[str, list] = {}

    def known_latent(self, digest: str, crop: Crop, size: Size) -> Tensor | None:
        """Returns the latent of a picture file with this SHA-256, if it was encoded before."""
        self.latents += 1
        key = self.latent_key(digest, crop, size)
        tensors = self.cache.read(key) if key else None
        if tensors is None:
            return None
        self.latents_found += 1
        return tensors["samples"]

    def latent_key(self, digest: str, crop: Crop, size: Size) -> str | None:
        if self.identities[0] is None:
            return None
        return key_of("latent", RECIPE, digest, vars(crop), size, self.identities[0])

    def latent(self, picture: np.ndarray, digest: str, crop: Crop, size: Size) -> Tensor:
        """Encodes a decoded picture; ValueError when the VAE gives NaN."""
        samples = self.vae.encode(fitted(picture, crop, size)).cpu()
        if not torch.isfinite(samples).all():
            raise ValueError("the VAE gives NaN: start ComfyUI with --fp32-vae or use another VAE.")
        if key := self.latent_key(digest, crop, size):
            self.cache.write(key, {"samples": samples})
        return samples

    def conditioning(self, caption: str) -> list:
        """Returns the conditioning of a caption, encoded once, which says its text; embeddings by
        name may change, so captions that use them are not remembered on disk.
        """
        if caption not in self.conditionings:
            self.captions += 1
            made = self.encode_caption(caption)
            told = [[cross, facts | {CAPTION: caption}] for cross, facts in made]
            self.conditionings[caption] = told
        return self.conditionings[caption]

    def encode_caption(self, caption: str) -> list:
        """Returns the encoded caption, from the disk if it can be."""
        key = None
        if self.identities[1] is not None and "embedding:" not in caption:
            key = key_of("caption", RECIPE, caption, self.identities[1])
        if key and (tensors := self.cache.read(key)) is not None:
            self.captions_found += 1
            return from_tensors(tensors)
        conditioning = self.clip.encode_from_tokens_scheduled(self.clip.tokenize(caption))
        tensors = to_tensors(conditioning) if key else None
        if tensors is not None:
            self.cache.write(key, tensors)
        return conditioning

    def report(self) -> str:
        """Returns how much was remembered."""
        return (
            f"cache: {self.latents_found} of {self.latents} latents, "
            f"{self.captions_found} of {self.captions} captions"
        )
