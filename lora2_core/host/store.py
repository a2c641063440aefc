"""Where adapters are kept: under the host's first loras folder, never outside it."""

from __future__ import annotations

import os
from pathlib import Path

import folder_paths

from ..atomic import sweep
from ..files import save
from ..lora import RankedLora
from ..places import below, quoted, standing, unportable
from ..settings import MEGABYTE
from .checkpoints import name_folders

RESCUED = "lora2/interrupted"  # the prefix of what an ended run has learned


def loras_folder() -> Path:
    """The host's first loras folder."""
    return Path(folder_paths.get_folder_paths("loras")[0])


def check_prefix(prefix: str) -> Path:
    """The folder that a prefix names, made if needed; ValueError when it leaves the loras folder or
    can't be written.
    """
    target = below(loras_folder(), prefix)
    if target is None:
        raise ValueError(
            f"filename_prefix {quoted(prefix)} is empty or leads out of the loras folder: give a "
            "name such as lora2/lora2."
        )
    if fault := unportable(prefix):
        raise ValueError(
            f"filename_prefix is {quoted(prefix)}, but {fault}: give a name such as lora2/lora2."
        )
    folder = target.parent
    try:
        folder.mkdir(parents=True, exist_ok=True)
        sweep(folder)
    except OSError as error:
        raise ValueError(
            f"The folder of {quoted(prefix)} can't be made ({error.strerror}): choose another one."
        ) from error
    if not os.access(folder, os.W_OK):
        raise ValueError(
            f"The folder of {quoted(prefix)} can't be written: choose another one or change its "
            "rights."
        )
    return folder


def no_loras() -> bool:
    """Whether the loras folders are empty; what a link in them leads to is not looked at."""
    roots = [root for root in folder_paths.get_folder_paths("loras") if os.path.isdir(root)]
    return not any(os.listdir(root) for root in roots)


def lora_path(name: object) -> Path | None:
    """The path of a file in a loras folder, through links as the host's own list has them; None
    where there is none, or the name leads out: a stranger's workflow must not name any file of the
    machine.
    """
    paths = (below(root, name) for root in folder_paths.get_folder_paths("loras"))
    return next((path for path in paths if path is not None and os.path.isfile(path)), None)


def sweep_orphans() -> None:
    """Removes what a crash left half written in the folders of LoRA² Train; files of other prefixes
    go when something is written beside them.
    """
    for folder in (loras_folder() / RESCUED).parent, *name_folders():
        sweep(folder)


def save_under_loras(lora: RankedLora, prefix: str, **options) -> tuple[str, float]:
    """Writes the next numbered file of a prefix; returns its name as loaders list it and its size
    in MB.
    """
    check_prefix(prefix)
    root, rest = standing(loras_folder(), prefix)
    folder, name, counter, _, _ = folder_paths.get_save_image_path(rest, str(root))
    path = Path(folder) / f"{name}_{counter:05}_.safetensors"
    save(path, lora, diffusers=lora.info.get("diffusers"), **options)
    return path.relative_to(loras_folder()).as_posix(), path.stat().st_size / MEGABYTE
