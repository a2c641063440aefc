"""Where adapters are kept: under the host's first loras folder, never outside it."""

from __future__ import annotations

import os
from pathlib import Path

import folder_paths

from ..files import save
from ..lora import RankedLora
from ..settings import MEGABYTE


def loras_folder() -> Path:
    """The host's first loras folder."""
    return Path(folder_paths.get_folder_paths("loras")[0])


def check_prefix(prefix: str) -> Path:
    """The folder that a prefix names, made if needed; ValueError when it leaves the loras folder or
    can't be written.
    """
    root = os.path.realpath(loras_folder())
    if (
        not isinstance(prefix, str)
        or not prefix.strip()
        or prefix.endswith(("/", "\\"))
        or "\0" in prefix
    ):
        raise ValueError(f"filename_prefix is {prefix!r}: give a name such as lora2/lora2.")
    target = os.path.realpath(os.path.join(root, prefix.replace("\\", "/")))
    if os.path.commonpath([root, target]) != root:
        raise ValueError(
            f"filename_prefix {prefix!r} leads out of the loras folder: give a name such as "
            "lora2/lora2."
        )
    folder = Path(target).parent
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ValueError(
            f"The folder of {prefix!r} can't be made ({error.strerror}): choose another one."
        ) from error
    if not os.access(folder, os.W_OK):
        raise ValueError(
            f"The folder of {prefix!r} can't be written: choose another one or change its rights."
        )
    return folder


def save_under_loras(lora: RankedLora, prefix: str, **options) -> tuple[str, float]:
    """Writes the next numbered file of a prefix; returns its name as loaders list it and its size
    in MB.
    """
    check_prefix(prefix)
    root = str(loras_folder())
    folder, name, counter, _, _ = folder_paths.get_save_image_path(prefix.replace("\\", "/"), root)
    path = Path(folder) / f"{name}_{counter:05}_.safetensors"
    save(path, lora, diffusers=lora.info.get("diffusers"), **options)
    return path.relative_to(root).as_posix(), path.stat().st_size / MEGABYTE
