"""Encoders that judge pictures, from folders in the form of transformers, which the host ships:
DINO ViT-S/16 and CLIP, as the papers use them. Nothing is downloaded, and pickles are refused.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import comfy.model_management
import folder_paths
import torch
from torch import Tensor

NONE = "none"
# the host's model folder
KIND = "clip_vision"
LOCAL = {"local_files_only": True, "trust_remote_code": False}
WEIGHTS = "*.safetensors"


def folders() -> list[str]:
    """Returns NONE and the names of the folders below models/clip_vision that hold a model of
    transformers.
    """
    roots = map(Path, folder_paths.get_folder_paths(KIND))
    names = {path.parent.name for root in roots for path in root.glob("*/config.json")}
    return [NONE, *sorted(names)]


def folder_of(name: str) -> Path:
    """Returns the path of a folder of that list. Raises ValueError for another name."""
    if name in folders()[1:]:
        for root in folder_paths.get_folder_paths(KIND):
            if (Path(root) / name / "config.json").is_file():
                return Path(root) / name
    raise ValueError(
        f"There is no folder {name!r} with a config.json in models/{KIND}: put the model's "
        "config.json, preprocessor_config.json and model.safetensors there."
    )


class LocalModel:
    """A model of transformers and its preprocessing. Raises ValueError when the folder lacks a
    part.
    """

    def __init__(self, folder: Path):
        from transformers import AutoImageProcessor, AutoModel

        if not list(folder.glob(WEIGHTS)):
            raise ValueError(
                f"{folder} has no .safetensors: put the model's weights there in that form "
                "(other forms can run code)."
            )
        try:
            self.prepare = AutoImageProcessor.from_pretrained(folder, **LOCAL)
            self.model = AutoModel.from_pretrained(folder, use_safetensors=True, **LOCAL)
        except (OSError, KeyError) as error:
            reason = str(error).splitlines()[0]
            raise ValueError(f"The model in {folder} can't be read: {reason}") from error
        self.folder, self.device = folder, comfy.model_management.get_torch_device()
        self.model.eval().requires_grad_(False).to(self.device)

    def pixels(self, images: Tensor) -> Tensor:
        """Returns the model's input [B, 3, size, size] for pictures [B, height, width, 3] in
        [0, 1].
        """
        pictures = list((images[..., :3].float().clamp(0, 1) * 255).round().byte().cpu().numpy())
        return self.prepare(pictures, return_tensors="pt")["pixel_values"].to(self.device)


def dino_features(folder: Path) -> Callable[[Tensor], Tensor]:
    """Returns a function from pictures to the class tokens of the last layer of a ViT, such as DINO
    or DINOv2.
    """
    local = LocalModel(folder)
    if hasattr(local.model, "text_model"):
        raise ValueError(f"{folder} holds a CLIP: choose it as clip_folder.")

    @torch.inference_mode()
    def encode(images: Tensor) -> Tensor:
        hidden = local.model(pixel_values=local.pixels(images)).last_hidden_state
        return hidden[:, 0].float().cpu()

    return encode


def clip_features(
    folder: Path,
) -> tuple[Callable[[Tensor], Tensor], Callable[[Sequence[str]], Tensor]]:
    """Returns two functions to projected embeddings of a CLIP: from pictures and from texts."""
    from transformers import AutoTokenizer

    local = LocalModel(folder)
    if not hasattr(local.model, "text_projection"):
        raise ValueError(f"{folder} holds no CLIP: choose it as dino_folder.")
    model, words = local.model, AutoTokenizer.from_pretrained(folder, **LOCAL)

    @torch.inference_mode()
    def encode(images: Tensor) -> Tensor:
        pooled = model.vision_model(pixel_values=local.pixels(images)).pooler_output
        return model.visual_projection(pooled).float().cpu()

    @torch.inference_mode()
    def read(texts: Sequence[str]) -> Tensor:
        most = model.config.text_config.max_position_embeddings
        form = {"padding": True, "truncation": True, "max_length": most, "return_tensors": "pt"}
        tokens = {k: v.to(local.device) for k, v in words(list(texts), **form).items()}
        inputs = {k: tokens[k] for k in ("input_ids", "attention_mask")}
        return model.text_projection(model.text_model(**inputs).pooler_output).float().cpu()

    return encode, read
