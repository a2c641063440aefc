"""Files of checkpoints: in lora2/checkpoints of the host's output folder, never outside it, one
folder for each name.
"""

from __future__ import annotations

import os
import re
from pathlib import Path

import folder_paths

from ...atomic import prepare, sweep, write_atomic
from ...paths import below, quoted, unportable
from ...saying import log
from ...training.checkpoint import Card, read_card

NAME = re.compile(r"\w[\w .()+-]{0,99}")
KIND = ".safetensors"


def checkpoints_folder() -> Path:
    """Returns the folder of all names."""
    return Path(folder_paths.get_output_directory()) / "lora2" / "checkpoints"


def folder_of(name: str) -> Path:
    """Returns the folder of a name, which need not exist yet. Raises ValueError for what is no
    name, and for a name that leads out of the checkpoints folder.
    """
    plain = isinstance(name, str) and NAME.fullmatch(name) and unportable(name) is None
    path = below(checkpoints_folder(), name) if plain else None
    if path is None:
        raise ValueError(
            f"name is {quoted(name)}: give one of letters, digits, spaces and any of _.()+- such "
            "as run."
        )
    return path


def file_of(listed: str) -> Path:
    """Returns the path of a checkpoint of the list. Raises ValueError where it does not exist."""
    path = below(checkpoints_folder(), listed)
    if path is None or path.suffix != KIND or not os.path.isfile(path):
        raise ValueError(
            f"There is no checkpoint {quoted(listed)} in output/lora2/checkpoints: choose one from "
            "the list (press R to refresh it)."
        )
    return path


def listed_name(path: Path) -> str:
    """Returns the name of a checkpoint in the list: folder/file."""
    return f"{path.parent.name}/{path.name}"


def files_in(folder: Path) -> list[Path]:
    """Returns the checkpoints of a folder, by name."""
    if not folder.is_dir():
        return []
    files = (p for p in folder.iterdir() if p.suffix == KIND and not p.name.startswith("."))
    return sorted(p for p in files if p.is_file())


def name_folders() -> list[Path]:
    """Returns the folders of all names, sorted."""
    root = checkpoints_folder()
    return sorted(p for p in root.iterdir() if p.is_dir()) if root.is_dir() else []


def sweep_orphans() -> None:
    """Removes what a crash left half written among the checkpoints."""
    for folder in name_folders():
        sweep(folder)


def checkpoint_list() -> list[str]:
    """Returns the names of all checkpoints; opens no file. A folder that can't be read is not
    fatal: the host asks for this list whenever a page is loaded.
    """
    try:
        return [listed_name(path) for folder in name_folders() for path in files_in(folder)]
    except OSError as error:
        log.warning("The checkpoints can't be listed: %s", error)
        return []


def cards_in(folder: Path) -> dict[Path, Card]:
    """Returns the cards of a folder's checkpoints, oldest first, from their headers; leaves out
    checkpoints that can't be read.
    """
    cards = {}
    for path in files_in(folder):
        try:
            cards[path] = read_card(path)
        except (ValueError, OSError) as error:
            log.warning("A checkpoint is left out: %s", error)
    return dict(sorted(cards.items(), key=lambda pair: pair[1].order))


def latest(name: str) -> Path | None:
    """Returns the checkpoint of a name that was written last, None where there is none."""
    return next(reversed(cards_in(folder_of(name))), None)


def folder_for(name: str) -> Path:
    """Makes the folder of a name, removes what a crash left half written in it, and returns it.
    Raises ValueError where it can't be made or written.
    """
    return prepare(folder_of(name), f"The checkpoints folder of {quoted(name)}", "another name")


def next_order(folder: Path) -> int:
    """Returns a number above the order of every checkpoint in the folder."""
    return 1 + max((card.order for card in cards_in(folder).values()), default=0)


def write(data: bytes, card: Card, folder: Path, keep_last: int) -> Path:
    """Writes a checkpoint, reads it back, and then removes all but the last ones of the same run.
    Checkpoints of other runs stay, even of the same step.
    """
    cards = cards_in(folder)
    path, number = folder / f"step-{card.step:06}{KIND}", 1
    while path.exists() and (path not in cards or cards[path].run != card.run):
        number += 1
        path = folder / f"step-{card.step:06}_{number}{KIND}"
    write_atomic(path, data)
    if read_card(path) != card:
        raise OSError(f"{path.name} read back differently from what was written: check the disk.")
    older = [p for p, other in cards.items() if other.run == card.run and p != path]
    for old in older[: max(0, len(older) + 1 - keep_last)]:
        old.unlink(missing_ok=True)
    return path
