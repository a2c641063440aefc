"""Lists the files of a folder and of its sub-folders in order of name. Links are followed."""

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

# files and folders that operating systems make, in lower case. Hidden files are ignored too
IGNORED = {
    "__macosx", "thumbs.db", "ehthumbs.db", "desktop.ini", "@eadir", "$recycle.bin",
    "system volume information",
}  # fmt: skip
# levels of sub-folders whose pictures are used, as in kohya's trainer with its N_name folders
NEAR = 1
# levels of sub-folders that are read at all
DEEPEST = 32
# highest number of files and folders in a data set. A folder with more was chosen by mistake
MOST_FILES = 1_000_000
# highest number of folders that are read for a node's list of folders. The list is made again each
# time ComfyUI asks for it, so this must stay quick
MOST_FOLDERS = 20_000


@dataclass(frozen=True)
class File:
    """Holds the path of a file, and the names of the folders from the chosen folder down to it."""

    path: Path
    folders: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        """Returns the name that reports show: the folders and the file, joined by /."""
        return readable("/".join((*self.folders, self.path.name)))


def visible(folder: str | Path) -> list[os.DirEntry]:
    """Returns the files and folders in a folder that are neither hidden nor ignored, in order of
    name. Raises ValueError when the folder can't be read.
    """

    def counts(name: str) -> bool:
        return not name.startswith(".") and name.lower() not in IGNORED

    try:
        with os.scandir(folder) as entries:
            return sorted((e for e in entries if counts(e.name)), key=lambda e: e.name)
    except OSError as error:
        name = readable(Path(folder).name)
        raise ValueError(
            f"The folder {name!r} can't be read ({error.strerror}): let ComfyUI read it, or choose "
            "another one."
        ) from error


def is_folder(entry: os.DirEntry) -> bool:
    """Returns whether an entry is a folder or a link to one; False for a broken link."""
    try:
        return entry.is_dir()
    except OSError:
        return False


def identity(folder: str | Path) -> tuple[int, int] | None:
    """Returns numbers that are equal for a folder and for links to it; None if it can't be read."""
    try:
        facts = os.stat(folder)
    except OSError:
        return None
    return facts.st_dev, facts.st_ino


def walk(
    folder: Path, skipped: dict[str, str] | None = None, deepest: int = DEEPEST
) -> Iterator[File]:
    """Yields the files of a folder and of `deepest` levels of sub-folders. A sub-folder that is not
    read is added to `skipped` with the reason. Raises ValueError when the folder itself can't be
    read, or when more than MOST_FILES files and folders are in it.
    """
    skipped = {} if skipped is None else skipped
    count = 0

    def inside(path: str | Path, folders: tuple[str, ...], above: frozenset) -> Iterator[File]:
        nonlocal count
        for entry in visible(path):
            count += 1
            if count > MOST_FILES:
                raise ValueError(
                    f"The folder holds more than {MOST_FILES} files: choose a folder that has only "
                    "pictures."
                )
            if not is_folder(entry):
                yield File(Path(entry.path), folders)
                continue
            deeper, this = (*folders, entry.name), identity(entry.path)
            name = readable("/".join(deeper)) + "/"
            if this in above:
                skipped[name] = "a link to a folder that it is in"
            elif len(deeper) > deepest:
                skipped[name] = f"deeper than {deepest} folders"
            elif not os.access(entry.path, os.R_OK | os.X_OK):
                skipped[name] = "a folder that can't be read"
            else:
                yield from inside(entry.path, deeper, above | {this})

    yield from inside(folder, (), frozenset({identity(folder)}))


def with_pictures(root: str | Path) -> list[str]:
    """Returns the folders that can be chosen as a data set: folders that have a picture in them or
    in a direct sub-folder. They are paths relative to root, in order of name.

    ComfyUI's own list of folders is not used: it has folders without pictures, and lacks links.
    """
    endings, chosen, looked = suffixes(), [], 0

    def look(path: str | Path, folders: tuple[str, ...], above: frozenset) -> bool:
        nonlocal looked
        looked += 1
        here = near = False
        with suppress(ValueError):  # a folder that can't be read
            for entry in visible(path):
                if not is_folder(entry):
                    here = here or entry.name.lower().endswith(endings)
                elif looked < MOST_FOLDERS and len(folders) < DEEPEST:
                    this = identity(entry.path)
                    if this not in above:
                        near |= look(entry.path, (*folders, entry.name), above | {this})
        if (here or near) and folders:
            chosen.append("/".join(folders))
        return here

    look(root, (), frozenset({identity(root)}))
    if looked >= MOST_FOLDERS:
        log.warning(
            "The input folder has more than %d folders, so some are not in the list: move folders "
            "without pictures out of it.",
            MOST_FOLDERS,
        )
    return sorted(chosen)


def state(folder: Path) -> str:
    """Returns a hash of the names, sizes and modification times of a folder's files. It changes
    when one of them changes.
    """
    digest = hashlib.sha256()
    for file in walk(folder, deepest=NEAR):
        with suppress(OSError):  # a file that was just removed, or a broken link
            facts = os.stat(file.path)
            digest.update(f"{file.name!r} {facts.st_size} {facts.st_mtime_ns}\n".encode())
    return digest.hexdigest()
