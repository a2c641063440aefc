"""Every file of a folder and of all folders in it, in order of name, links followed."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from ..paths import readable
from ..saying import log
from .formats import suffixes

IGNORED = {  # what systems leave in folders, in small letters, besides hidden files
    "__macosx", "thumbs.db", "ehthumbs.db", "desktop.ini", "@eadir", "$recycle.bin",
    "system volume information",
}  # fmt: skip
NEAR = 1  # folders down, whose pictures are used, as kohya's trainer does with its N_name ones
DEEPEST = 32  # folders down, that are looked into at all
MOST_FILES = 1_000_000  # of a data set: more means that the wrong folder was chosen
MOST_FOLDERS = 20_000  # looked into for the list of folders, each time it is asked for


@dataclass(frozen=True)
class File:
    """A file, the names of the folders that it lies in, from the chosen one on, and the name that
    reports call it.
    """

    path: Path
    folders: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        return readable("/".join((*self.folders, self.path.name)))


def visible(folder: str | Path) -> list[os.DirEntry]:
    """Returns what is in a folder, in order of name; ValueError when it can't be read."""

    def counts(name: str) -> bool:
        return not name.startswith(".") and name.lower() not in IGNORED

    try:
        with os.scandir(folder) as entries:
            return sorted((e for e in entries if counts(e.name)), key=lambda e: e.name)
    except OSError as error:
        name = readable(Path(folder).name)
        raise ValueError(
            f"The folder {name!r} can't be read ({error.strerror}): change its rights."
        ) from error


def is_folder(entry: os.DirEntry) -> bool:
    """Returns whether it is a folder or a link to one; False for a link that leads nowhere."""
    try:
        return entry.is_dir()
    except OSError:
        return False


def identity(folder: str | Path) -> tuple[int, int] | None:
    """Returns what is the same for a folder and all links to it; None when it can't be asked."""
    try:
        facts = os.stat(folder)
    except OSError:
        return None
    return facts.st_dev, facts.st_ino


def walk(
    folder: Path, skipped: dict[str, str] | None = None, deepest: int = DEEPEST
) -> Iterator[File]:
    """Yields the files of a folder and of those in it, down to so many; folders that can't be
    looked into are put into `skipped` with the reason. ValueError when the folder itself can't be
    read or holds too much.
    """
    skipped = {} if skipped is None else skipped
    count = 0

    def inside(place: str | Path, folders: tuple[str, ...], above: frozenset) -> Iterator[File]:
        nonlocal count
        for entry in visible(place):
            count += 1
            if count > MOST_FILES:
                raise ValueError(
                    f"The folder holds more than {MOST_FILES} files: choose one with pictures only."
                )
            if not is_folder(entry):
                yield File(Path(entry.path), folders)
                continue
            deeper, this = (*folders, entry.name), identity(entry.path)
            name = readable("/".join(deeper)) + "/"
            if this in above:
                skipped[name] = "a link to a folder that it lies in"
            elif len(deeper) > deepest:
                skipped[name] = f"deeper than {deepest} folders"
            elif not os.access(entry.path, os.R_OK | os.X_OK):
                skipped[name] = "a folder that can't be read"
            else:
                yield from inside(entry.path, deeper, above | {this})

    yield from inside(folder, (), frozenset({identity(folder)}))


def with_pictures(root: str | Path) -> list[str]:
    """Returns the folders below root, by their names from there, in which a dataset would find a
    picture: ComfyUI makes others in its input folder. Its own list has no links.
    """
    endings, found, looked = suffixes(), [], 0

    def look(place: str | Path, folders: tuple[str, ...], above: frozenset) -> bool:
        nonlocal looked
        looked += 1
        here = near = False
        with suppress(ValueError):  # it can't be read
            for entry in visible(place):
                if not is_folder(entry):
                    here = here or entry.name.lower().endswith(endings)
                elif looked < MOST_FOLDERS and len(folders) < DEEPEST:
                    this = identity(entry.path)
                    if this not in above:
                        near |= look(entry.path, (*folders, entry.name), above | {this})
        if (here or near) and folders:
            found.append("/".join(folders))
        return here

    look(root, (), frozenset({identity(root)}))
    if looked >= MOST_FOLDERS:
        log.warning("The input folder has more than %d folders: some are not listed.", looked)
    return sorted(found)


def state(folder: Path) -> str:
    """Changes when a file comes, goes or changes: names, sizes and times."""
    digest = hashlib.sha256()
    for file in walk(folder, deepest=NEAR):
        with suppress(OSError):  # gone since, or a link to nothing
            facts = os.stat(file.path)
            digest.update(f"{file.name!r} {facts.st_size} {facts.st_mtime_ns}\n".encode())
    return digest.hexdigest()
