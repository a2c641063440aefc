"""What belongs to a picture by its name: files of captions and masks beside it."""

from __future__ import annotations

import stat
from collections.abc import Iterable
from pathlib import Path
from unicodedata import normalize

from .reading import Unusable
from .walking import File

MOST_CAPTION_BYTES = 65536
CAPTIONS = (".txt", ".caption")  # the first that is there counts
MASK = "-masklabel"  # what follows the picture's name in that of its mask


def mask_of(path: Path) -> str | None:
    """Returns the name of the picture that a file is the mask of, without its ending; None for no
    mask.
    """
    stem = path.stem
    return stem[: -len(MASK)] if stem.lower().endswith(MASK) and len(stem) > len(MASK) else None


def names_of(path: Path) -> tuple[str, ...]:
    """Returns what a file beside a picture may be called, the best first: as the picture without
    its ending or with it, else with capitals that differ. Accents may be written either way, since
    macOS takes them apart.
    """
    exact = normalize("NFC", path.stem), normalize("NFC", path.name)
    return *exact, *(name.casefold() for name in exact)


def paired(
    pictures: Iterable[File], files: Iterable[tuple[str, File]]
) -> tuple[dict[Path, list[File]], list[File]]:
    """Returns the files of each picture, the best first, and those of no picture. Each comes with
    what it is called without its own ending.
    """
    known: dict[tuple, list[Path]] = {}
    for picture in pictures:
        for way, name in enumerate(names_of(picture.path)):
            known.setdefault((way, picture.path.parent, name), []).append(picture.path)
    found: dict[Path, list[tuple]] = {}
    lost = []
    for called, file in files:
        called = normalize("NFC", called)
        for way, name in enumerate((called, called, called.casefold(), called.casefold())):
            if described := known.get((way, file.path.parent, name)):
                ending = file.path.suffix
                kind = CAPTIONS.index(ending.lower()) if ending.lower() in CAPTIONS else 0
                for path in described:
                    order = way, kind, ending != ending.lower(), file.path.name
                    found.setdefault(path, []).append((order, file))
                break
        else:
            lost.append(file)
    ordered = {path: sorted(taken, key=lambda t: t[0]) for path, taken in found.items()}
    return {path: [file for _, file in taken] for path, taken in ordered.items()}, lost


def check_file(path: Path, what: str = "") -> None:
    """Unusable unless it is a regular file, links followed; `what` begins the reason."""
    try:
        if not stat.S_ISREG(path.stat().st_mode):
            raise Unusable(f"{what}is no regular file" if what else "no regular file")
    except OSError as error:
        reason = "a link to nothing" if path.is_symlink() else "unreadable"
        raise Unusable(f"{what}is {reason}" if what else reason) from error


def read_caption(path: Path) -> str:
    """Returns the text of a caption file; Unusable when it is no text."""
    check_file(path, "its caption ")
    try:
        if path.stat().st_size > MOST_CAPTION_BYTES:
            raise Unusable(f"its caption has more than {MOST_CAPTION_BYTES} bytes")
        return text_of(path.read_bytes()).strip()
    except OSError as error:
        raise Unusable("its caption is unreadable") from error


def text_of(data: bytes) -> str:
    """Returns UTF-8, or UTF-16 as Windows writes it, with or without its mark; Unusable for another
    encoding: which one it is can't be known, and wrong words would be learned.
    """
    low, high = data[1::2].count(0), data[::2].count(0)  # half of UTF-16 in Latin letters
    codec = "utf-8-sig"
    if data.startswith((b"\xff\xfe", b"\xfe\xff")):
        codec = "utf-16"
    elif max(low, high) > max(3 * min(low, high), len(data) // 4):
        codec = "utf-16-le" if low > high else "utf-16-be"
    try:
        text = data.decode(codec)
    except UnicodeDecodeError as error:
        raise Unusable("its caption is no UTF-8 text: save it as UTF-8") from error
    if "\0" in text:
        raise Unusable("its caption is no text")
    return text
