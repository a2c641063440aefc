"""Loads models as ComfyUI's loaders do."""

from __future__ import annotations

from pathlib import Path

import comfy.sd
import folder_paths
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from ..host.playground import load_playground
from ..paths import quoted
from ..playground import asset
from .job import Job
from .plan import PLAYGROUND


def load_checkpoint(name: str):
    """Returns (MODEL, CLIP, VAE) of a name in the checkpoints folder, a file, or the playground."""
    if name == PLAYGROUND:
        return load_playground(asset.load())
    path = folder_paths.get_full_path("checkpoints", name) or name
    if not Path(path).is_file():
        raise ValueError(
            f"There is no checkpoint {name!r}: give a name in the checkpoints folder, or a file."
        )
    loaded = comfy.sd.load_checkpoint_guess_config(path, output_vae=True, output_clip=True)
    return loaded[:3]


def model_file(kind: str, name: str) -> str:
    """Returns the path of a name in the host's folder of this kind, or of a file. Raises ValueError
    where there is neither.
    """
    path = folder_paths.get_full_path(kind, name) or name
    if not Path(path).is_file():
        raise ValueError(f"There is no {quoted(name)} in the folder {kind}: give a name or a file.")
    return path


def tensors_of(path: str) -> dict[str, Tensor]:
    """Returns the tensors of a .safetensors file. Raises ValueError for any other file."""
    try:
        return load_file(path)
    except (OSError, SafetensorError) as error:
        raise ValueError(
            f"{Path(path).name} is no .safetensors file that can be read ({error})."
        ) from error


def load_models(job: Job):
    """Returns (MODEL, CLIP, VAE) of a job: of its checkpoint, or of its single files."""
    if job.checkpoint:
        return load_checkpoint(job.checkpoint)
    kind = getattr(comfy.sd.CLIPType, job.clip_type.upper() or "STABLE_DIFFUSION", None)
    if kind is None:
        raise ValueError(
            f"clip_type is {quoted(job.clip_type)}: give a type that ComfyUI's CLIPLoader has."
        )
    encoders = [model_file("text_encoders", name) for name in job.text_encoders]
    model = comfy.sd.load_diffusion_model(model_file("diffusion_models", job.diffusion_model))
    embeddings = folder_paths.get_folder_paths("embeddings")
    clip = comfy.sd.load_clip(encoders, embedding_directory=embeddings, clip_type=kind)
    return model, clip, comfy.sd.VAE(sd=tensors_of(model_file("vae", job.vae)))
