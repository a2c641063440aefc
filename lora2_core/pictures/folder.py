"""A folder of pictures with captions beside them: what is there, and what is left out and why."""

from __future__ import annotations

import hashlib
import os
import re
import stat
from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from ..places import below, parts_of, quoted
from .reading import SUFFIXES, Unusable

MOST_CAPTION_BYTES = 65536
MOST_REPEATS = 1000
PREFIX = re.compile(r"(\d+)_(.*)")
CAPTIONS = (".txt", ".caption")  # the first that is there counts
MASK = "-masklabel"  # what follows the picture's name in that of its mask


@dataclass(frozen=True)
class Picture:
    """A file, the name that reports call it, how often it is repeated, its own caption (None
    without a file of it) and the kind of that file, what a folder called N_name says instead, and
    the file of its mask.
    """

    path: Path
    name: str
    repeats: int
    caption: str | None
    caption_kind: str = CAPTIONS[0]
    folder_caption: str = ""
    mask: Path | None = None


@dataclass
class Listing:
    """The usable pictures in order of name; the reasons of those left out, by name; the number of
    other files.
    """

    pictures: list[Picture] = field(default_factory=list)
    skipped: dict[str, str] = field(default_factory=dict)
    others: int = 0


def check_folder(root: str, name: str) -> Path:
    """The folder of a name below root; ValueError when it is none or leads out of root."""
    if not isinstance(name, str) or not name.strip() or "\0" in name:
        raise ValueError(f"folder is {quoted(name)}: choose a folder in the input folder.")
    if set(parts_of(name) or [".."]) <= {"", "."}:
        raise ValueError(f"folder {quoted(name)} is the input folder itself: choose one in it.")
    if (target := below(root, name)) is None:
        raise ValueError(
            f"folder {quoted(name)} leads out of the input folder: choose one inside it."
        )
    if not os.path.isdir(target):
        raise ValueError(
            f"There is no folder {quoted(name)} in the input folder: put the pictures there, or "
            "choose another one."
        )
    return target


def repeats_of(folder: str) -> int:
    """N of a folder called N_name, else 1."""
    match = PREFIX.match(folder)
    if match is None:
        return 1
    repeats = int(match[1]) if len(match[1]) < 10 else MOST_REPEATS + 1
    if not 1 <= repeats <= MOST_REPEATS:
        raise ValueError(
            f"Folder {folder!r} asks for {match[1][:12]} repeats: give it a number from 1 to "
            f"{MOST_REPEATS}."
        )
    return repeats


def walk(folder: Path) -> Iterator[tuple[os.DirEntry, str]]:
    """The files of a folder and of its sub-folders, with their names from the folder; hidden ones
    not.
    """
    for entry in visible(folder):
        if not entry.is_dir():
            yield entry, entry.name
        else:
            inside = (e for e in visible(entry.path) if not e.is_dir())
            yield from ((e, f"{entry.name}/{e.name}") for e in inside)


def with_pictures(root: str, folders: Iterable[str]) -> list[str]:
    """Those of the folders, named from root, in which a dataset would look at a picture: ComfyUI
    makes others in its input folder.
    """

    def has_one(folder: Path) -> bool:
        with suppress(ValueError):  # it can't be read
            return any(name.lower().endswith(SUFFIXES) for _, name in walk(folder))
        return False

    return [name for name in folders if has_one(Path(root, name))]


def visible(folder: str | Path) -> list[os.DirEntry]:
    """What is in a folder, in order of name; ValueError when it can't be read."""
    try:
        with os.scandir(folder) as entries:
            return sorted((e for e in entries if not e.name.startswith(".")), key=lambda e: e.name)
    except OSError as error:
        raise ValueError(
            f"The folder {Path(folder).name!r} can't be read ({error.strerror}): change its rights."
        ) from error


def scan(folder: Path, root: str) -> Listing:
    """Every picture of a folder and of its direct sub-folders; N_name ones are repeated N times."""
    found, root = Listing(), os.path.realpath(root)
    masks, names = {}, {}
    for entry, name in walk(folder):
        path = Path(entry.path)
        if path.suffix.lower() not in SUFFIXES:
            found.others += path.suffix.lower() not in CAPTIONS
        elif path.stem.endswith(MASK) and path.stem != MASK:
            masks.setdefault(path.with_name(path.stem.removesuffix(MASK)), (path, name))
        else:
            names[path] = name
    for path, name in names.items():
        mask, _ = masks.get(path.with_suffix(""), (None, ""))
        try:
            check_file(path, root)
            caption, kind = own_caption(path, root)
            if mask is not None:
                check_file(mask, root, "its mask ")
        except Unusable as reason:
            found.skipped[name] = str(reason)
            continue
        outer = path.parent.name if path.parent != folder else ""
        words = match[2].strip() if (match := PREFIX.match(outer)) else ""
        picture = Picture(path, name, repeats_of(outer), caption, kind, words, mask)
        found.pictures.append(picture)
    described = {path.with_suffix("") for path in names}
    for place, (_, name) in masks.items():
        if place not in described:
            found.skipped[name] = "a mask without its picture"
    return found


def check_file(path: Path, root: str, what: str = "") -> None:
    """Unusable unless it is a regular file inside root; `what` begins the reason."""
    try:
        if os.path.commonpath([root, os.path.realpath(path)]) != root:
            raise Unusable(f"{what}leads out of the input folder")
        if not stat.S_ISREG(path.stat().st_mode):
            raise Unusable(f"{what}is no regular file" if what else "no regular file")
    except OSError as error:
        raise Unusable(f"{what}is unreadable" if what else "unreadable") from error


def own_caption(path: Path, root: str) -> tuple[str | None, str]:
    """A picture's own caption and the kind of its file: the first of CAPTIONS that is there."""
    for kind in CAPTIONS:
        if (caption := read_caption(path.with_suffix(kind), root)) is not None:
            return caption, kind
    return None, CAPTIONS[0]


def read_caption(path: Path, root: str) -> str | None:
    """The text of a caption file, None where there is none; Unusable when it is no text."""
    if not path.exists():
        return None
    try:
        check_file(path, root)
        if path.stat().st_size > MOST_CAPTION_BYTES:
            raise Unusable(f"its caption has more than {MOST_CAPTION_BYTES} bytes")
        return path.read_text(encoding="utf-8-sig").strip()
    except UnicodeDecodeError as error:
        raise Unusable("its caption is no UTF-8 text") from error
    except OSError as error:
        raise Unusable("its caption is unreadable") from error


def state(folder: Path) -> str:
    """Changes when a file comes, goes or changes: names, sizes and times."""
    digest = hashlib.sha256()
    for entry, name in walk(folder):
        with suppress(OSError):  # gone since, or a link to nothing
            facts = entry.stat()
            digest.update(f"{name!r} {facts.st_size} {facts.st_mtime_ns}\n".encode())
    return digest.hexdigest()
