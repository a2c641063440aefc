"""Where adapters are kept: under the host's first loras folder, never outside it."""

from __future__ import annotations

import os
import shutil
from dataclasses import dataclass
from pathlib import Path

import folder_paths

from ..adapter.lora import RankedLora
from ..atomic import sweep
from ..files.saving import save
from ..paths import below, quoted, standing, unportable
from ..saying import log
from ..units import MEGABYTE

RESCUED = "lora2/interrupted"  # the prefix of what an ended run has learned
KEPT = "lora2/trained"  # the prefix of adapters that no node takes
COPIED = 64  # MB: a larger file is linked, never written a second time


def loras_folder() -> Path:
    """Returns the host's first loras folder."""
    return Path(folder_paths.get_folder_paths("loras")[0])


def check_prefix(prefix: str) -> Path:
    """Returns the folder that a prefix names, made if needed; ValueError when it leaves the loras
    folder or can't be written.
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
    """Returns whether the loras folders are empty; what a link in them leads to is not looked
    at.
    """
    roots = [root for root in folder_paths.get_folder_paths("loras") if os.path.isdir(root)]
    return not any(os.listdir(root) for root in roots)


def lora_path(name: object) -> Path | None:
    """Returns the path of a file in a loras folder, through links as the host's own list has them;
    None where there is none, or the name leads out: a stranger's workflow must not name any file of
    the machine.
    """
    paths = (below(root, name) for root in folder_paths.get_folder_paths("loras"))
    return next((path for path in paths if path is not None and os.path.isfile(path)), None)


def sweep_orphans() -> None:
    """Removes what a crash left half written in the folder of rescued adapters; files of other
    prefixes go when something is written beside them.
    """
    sweep((loras_folder() / RESCUED).parent)


@dataclass(frozen=True)
class Saved:
    """A file that was written: its name as loaders list it, where it lies, and what is in it."""

    name: str
    path: Path
    lora: RankedLora

    @property
    def megabytes(self) -> float:
        return self.path.stat().st_size / MEGABYTE


def write_under_loras(lora: RankedLora, prefix: str, **options) -> Saved:
    """Writes the next numbered file of a prefix."""
    check_prefix(prefix)
    root, rest = standing(loras_folder(), prefix)
    folder, name, counter, _, _ = folder_paths.get_save_image_path(rest, str(root))
    path = Path(folder) / f"{name}_{counter:05}_.safetensors"
    written = save(path, lora, diffusers=lora.origin.base.diffusers, **options)
    return Saved(path.relative_to(loras_folder()).as_posix(), path, written)


def save_under_loras(lora: RankedLora, prefix: str, **options) -> tuple[str, float]:
    """Writes the next numbered file of a prefix; returns its name as loaders list it and its size
    in MB.
    """
    saved = write_under_loras(lora, prefix, **options)
    return saved.name, saved.megabytes


def offered(saved: Saved) -> dict[str, str]:
    """Returns where the host's /view finds the file until the server ends: a hard link in the temp
    folder. Where the disk has none, small files are copied; {} for larger ones.
    """
    root = Path(folder_paths.get_temp_directory()).resolve()
    if (place := below(root, saved.name)) is None:
        return {}
    try:
        place.parent.mkdir(parents=True, exist_ok=True)
        place.unlink(missing_ok=True)
        try:
            os.link(saved.path, place)
        except OSError:
            if saved.megabytes > COPIED:
                return {}
            shutil.copyfile(saved.path, place)
    except OSError as error:
        log.info("%s is not offered for download: %s", saved.name, error)
        return {}
    subfolder = "/".join(place.parent.relative_to(root).parts)
    return {"filename": place.name, "subfolder": subfolder, "type": "temp"}
