"""Writes adapters under the host's first loras folder, never outside it, and finds them again."""

from __future__ import annotations

import os
import shutil
from dataclasses import dataclass
from pathlib import Path

import folder_paths

from ..adapter.lora import RankedLora
from ..atomic import prepare, sweep
from ..files.saving import save
from ..paths import below, quoted, standing, unportable
from ..saying import log
from ..units import MEGABYTE

RESCUED = "lora2/interrupted"  # prefix of the adapters of runs that ended early
KEPT = "lora2/trained"  # prefix of adapters that no other node takes
COPIED = 64  # MB: a larger file is never written a second time for a download


def loras_folder() -> Path:
    """Returns the host's first loras folder."""
    return Path(folder_paths.get_folder_paths("loras")[0])


def check_prefix(prefix: str) -> Path:
    """Returns the folder of a filename prefix, made if needed; ValueError when it lies outside the
    loras folder or can't be written.
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
    return prepare(target.parent, f"The folder of {quoted(prefix)}", "another one")


def no_loras() -> bool:
    """Returns whether all loras folders are empty; links in them are not followed."""
    roots = [root for root in folder_paths.get_folder_paths("loras") if os.path.isdir(root)]
    return not any(os.listdir(root) for root in roots)


def lora_path(name: object) -> Path | None:
    """Returns the path of a file in a loras folder; None where there is no such file, or where the
    name leads out of the folder.

    A workflow of a stranger must not reach other files of the machine. Links inside the folder are
    followed, as the host's own list does.
    """
    paths = (below(root, name) for root in folder_paths.get_folder_paths("loras"))
    return next((path for path in paths if path is not None and os.path.isfile(path)), None)


def sweep_orphans() -> None:
    """Removes half-written files that a crash left in the folder of rescued adapters. Such files in
    other folders are removed at the next writing there.
    """
    sweep((loras_folder() / RESCUED).parent)


@dataclass(frozen=True)
class Saved:
    """A file that was written. name: as loaders list it. lora: the adapter in it."""

    name: str
    path: Path
    lora: RankedLora

    @property
    def megabytes(self) -> float:
        return self.path.stat().st_size / MEGABYTE


def write_under_loras(lora: RankedLora, prefix: str, **options) -> Saved:
    """Writes an adapter into the next numbered file of a prefix; options of files.saving.save."""
    check_prefix(prefix)
    root, rest = standing(loras_folder(), prefix)
    folder, name, counter, _, _ = folder_paths.get_save_image_path(rest, str(root))
    path = Path(folder) / f"{name}_{counter:05}_.safetensors"
    written = save(path, lora, diffusers=lora.origin.base.diffusers, sure=True, **options)
    return Saved(path.relative_to(loras_folder()).as_posix(), path, written)


def save_under_loras(lora: RankedLora, prefix: str, **options) -> tuple[str, float]:
    """Writes an adapter as `write_under_loras` does, and returns the file's name and its size in
    MB.
    """
    saved = write_under_loras(lora, prefix, **options)
    return saved.name, saved.megabytes


def offered(saved: Saved) -> dict[str, str]:
    """Offers a file for download, and returns the parameters of the host's /view for it; {} where
    that can't be.

    The file gets a hard link in the temp folder, which lasts until the server ends. On a disk
    without hard links, a small file is copied.
    """
    root = Path(folder_paths.get_temp_directory()).resolve()
    if (link := below(root, saved.name)) is None:
        return {}
    try:
        link.parent.mkdir(parents=True, exist_ok=True)
        link.unlink(missing_ok=True)
        try:
            os.link(saved.path, link)
        except OSError:
            if saved.megabytes > COPIED:
                return {}
            shutil.copyfile(saved.path, link)
    except OSError as error:
        log.info("%s is not offered for download: %s", saved.name, error)
        return {}
    subfolder = "/".join(link.parent.relative_to(root).parts)
    return {"filename": link.name, "subfolder": subfolder, "type": "temp"}
