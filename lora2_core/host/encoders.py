"""Encoders that judge pictures, from the host's own loaders: CLIP_VISION, DINOv2 and CLIP."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import comfy.clip_model
import comfy.sd1_clip
import torch
from torch import Tensor, nn

# the remedy that several errors end with
FOLDER = "choose a clip_folder with the complete CLIP model instead"


def image_features(clip_vision) -> Callable[[Tensor], Tensor]:
    """Returns a function from pictures [B, height, width, 3] to their features [B, width]: the
    projected embedding of a CLIP, or the class token of a DINOv2. The host scales the pictures and
    cuts them to a square.
    """

    def encode(images: Tensor) -> Tensor:
        return clip_vision.encode_image(images)["image_embeds"].float()

    return encode


def check_clip_vision(clip_vision) -> None:
    """Raises ValueError unless clip_vision is the picture tower of a CLIP, with its projection."""
    if not hasattr(clip_vision, "model_type"):
        raise ValueError("clip_vision holds no CLIP_VISION: connect Load CLIP Vision.")
    if not isinstance(clip_vision.model, comfy.clip_model.CLIPVisionModelProjection):
        raise ValueError(
            f"clip_vision is a {clip_vision.model_type} model: connect a CLIP there, and this one "
            "to dino."
        )


def check_dino(dino) -> None:
    """Raises ValueError unless dino is a DINO, which was trained without texts."""
    if not hasattr(dino, "model_type"):
        raise ValueError("dino holds no CLIP_VISION: connect Load CLIP Vision.")
    if "dino" not in dino.model_type:
        raise ValueError(
            f"dino is a {dino.model_type}: load a DINOv2 with Load CLIP Vision, or choose a "
            "dino_folder."
        )


def text_features(clip, clip_vision) -> Callable[[Sequence[str]], Tensor]:
    """Returns a function from texts to their features [B, width], by the text tower that belongs to
    clip_vision. Raises ValueError when clip has no such tower.
    """
    check_clip_vision(clip_vision)
    projection = clip_vision.model.visual_projection
    wide = projection.weight.shape[0] if isinstance(projection, nn.Module) else None
    widths = [tower.text_projection.weight.shape[0] for tower in projected_towers(clip)]
    if wide not in widths:
        has = f"embeddings {widths[0]} wide" if widths else "no projected embedding of texts"
        raise ValueError(
            f"clip has {has}, but clip_vision's are {wide or 'not projected'}: connect both towers "
            f"of one CLIP model (SDXL's CLIP goes with CLIP ViT-bigG), or {FOLDER}."
        )

    def encode(texts: Sequence[str]) -> Tensor:
        embeddings = []
        for text in texts:
            tokens = clip.tokenize(text, disable_weights=True)  # brackets are part of the text
            embeddings.append(clip.encode_from_tokens(tokens, return_pooled=True)[1][:1].float())
        pooled = torch.cat(embeddings)
        if pooled.shape[1] != wide:
            raise ValueError(
                f"clip joins embeddings of several models ({pooled.shape[1]} wide): {FOLDER}."
            )
        return pooled

    return encode


def projected_towers(clip) -> list[nn.Module]:
    """Returns the text towers of a CLIP whose projection the host uses; files of other towers have
    none.
    """
    return [
        part.transformer
        for part in clip.cond_stage_model.modules()
        if isinstance(part, comfy.sd1_clip.SDClipModel)
        and isinstance(part.transformer, comfy.clip_model.CLIPTextModel)
        and part.options_default[2]
    ]
