"""The caption and mask files of a picture, which lie beside it under its name."""

from __future__ import annotations

import stat
from collections.abc import Iterable
from pathlib import Path
from unicodedata import normalize

from .reading import Unusable
from .walking import File

# far above any caption: a text encoder reads a few hundred words
MOST_CAPTION_BYTES = 65536
# endings of caption files; of several files, the one with the first of these endings counts
CAPTIONS = (".txt", ".caption")
# a mask is named like its picture, with this before the ending; OneTrainer names masks so
MASK = "-masklabel"


def mask_of(path: Path) -> str | None:
    """Returns the name, without an ending, of the picture that a mask file belongs to; None for a
    file that is no mask.
    """
    stem = path.stem
    return stem[: -len(MASK)] if stem.lower().endswith(MASK) and len(stem) > len(MASK) else None


def names_of(path: Path) -> tuple[str, ...]:
    """Returns the names that a file beside a picture may have, best first: the picture's without
    its ending, or with it, then both without regard to capitals. Accents are joined to their
    letters, which macOS stores apart.
    """
    exact = normalize("NFC", path.stem), normalize("NFC", path.name)
    return *exact, *(name.casefold() for name in exact)


def paired(
    pictures: Iterable[File], files: Iterable[tuple[str, File]]
) -> tuple[dict[Path, list[File]], list[File]]:
    """Returns the files that belong to each picture, best first, and the files without a picture.

    files: pairs of a name, without the ending that marks a caption or a mask, and the file.
    """
    known: dict[tuple, list[Path]] = {}
    for picture in pictures:
        for way, name in enumerate(names_of(picture.path)):
            known.setdefault((way, picture.path.parent, name), []).append(picture.path)
    matches: dict[Path, list[tuple]] = {}
    unmatched = []
    for name, file in files:
        name = normalize("NFC", name)
        for way, tried in enumerate((name, name, name.casefold(), name.casefold())):
            if described := known.get((way, file.path.parent, tried)):
                ending = file.path.suffix
                kind = CAPTIONS.index(ending.lower()) if ending.lower() in CAPTIONS else 0
                for path in described:
                    order = way, kind, ending != ending.lower(), file.path.name
                    matches.setdefault(path, []).append((order, file))
                break
        else:
            unmatched.append(file)
    ordered = {path: sorted(ranked, key=lambda t: t[0]) for path, ranked in matches.items()}
    return {path: [file for _, file in ranked] for path, ranked in ordered.items()}, unmatched


def check_file(path: Path, what: str = "") -> None:
    """Raises Unusable unless the path, links followed, leads to a regular file.

    what: the beginning of the reason, such as "its mask ".
    """
    try:
        if not stat.S_ISREG(path.stat().st_mode):
            raise Unusable(f"{what}is no regular file" if what else "no regular file")
    except OSError as error:
        reason = "a link to nothing" if path.is_symlink() else "unreadable"
        raise Unusable(f"{what}is {reason}" if what else reason) from error


def read_caption(path: Path) -> str:
    """Returns the text of a caption file. Raises Unusable when it is no text."""
    check_file(path, "its caption ")
    try:
        if path.stat().st_size > MOST_CAPTION_BYTES:
            raise Unusable(f"its caption has more than {MOST_CAPTION_BYTES} bytes")
        return text_of(path.read_bytes()).strip()
    except OSError as error:
        raise Unusable("its caption is unreadable") from error


def text_of(data: bytes) -> str:
    """Returns the text of bytes in UTF-8, or in UTF-16 with or without a byte order mark, as
    Windows writes it. Raises Unusable for other encodings: they can't be told apart safely, and
    wrong words would be learned.
    """
    # UTF-16 of Latin letters has a zero in every second byte
    low, high = data[1::2].count(0), data[::2].count(0)
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
