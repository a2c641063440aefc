"""Finds and reads the caption and mask files that lie beside a picture and have its name."""

from __future__ import annotations

import stat
from collections.abc import Iterable
from pathlib import Path
from unicodedata import normalize

from ..paths import readable
from .reading import Unusable
from .walking import File

# bytes, far more than any caption has: a text encoder reads a few hundred words
MOST_CAPTION_BYTES = 65536
# endings of caption files. If a picture has both, the .txt file is used
CAPTIONS = (".txt", ".caption")
# stands between name and ending of a mask: owl-masklabel.png is the mask of owl.png. OneTrainer
# names masks in this way
MASK = "-masklabel"


def mask_of(path: Path) -> str | None:
    """Returns the name of the picture that a mask file belongs to, without its ending: owl for
    owl-masklabel.png. Returns None if the file is not a mask.
    """
    stem = path.stem
    return stem[: -len(MASK)] if stem.lower().endswith(MASK) and len(stem) > len(MASK) else None


def names_of(path: Path) -> tuple[str, ...]:
    """Returns the names that a file beside a picture may have, best first. For Owl.png they are Owl
    and Owl.png, then owl and owl.png, to compare without regard to capitals. Letters with accents
    are one character each: macOS stores the accent as a second one.
    """
    exact = normalize("NFC", path.stem), normalize("NFC", path.name)
    return *exact, *(name.casefold() for name in exact)


def paired(
    pictures: Iterable[File], files: Iterable[tuple[str, File]]
) -> tuple[dict[Path, list[File]], list[File]]:
    """Returns a list of files for each picture, best first, and a list of files without a picture.

    files: pairs of a name and a file. The name is the file's, without the part that marks a caption
        or a mask: owl for owl.txt or owl-masklabel.png.
    """
    # (position in names_of, folder, name) -> pictures
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


def unused(what: str, chosen: dict[Path, list[File]], unmatched: list[File]) -> dict[str, str]:
    """Returns the reason, by name, of each caption or mask file that no picture uses: the picture
    has a better one, or is missing.
    """
    reasons = {file.name: f"a {what} without its picture" for file in unmatched}
    used = {files[0].path for files in chosen.values()}
    for path, (first, *others) in chosen.items():
        why = f"a second {what} of {readable(path.name)}: {readable(first.path.name)} is taken"
        reasons |= {file.name: why for file in others if file.path not in used}
    return reasons


def check_file(path: Path, what: str = "") -> None:
    """Raises Unusable unless a path leads to a regular file. Links are followed.

    what: the first words of the reason, such as "its mask ".
    """
    try:
        if not stat.S_ISREG(path.stat().st_mode):
            raise Unusable(f"{what}is not a regular file" if what else "not a regular file")
    except OSError as error:
        reason = "a link to nothing" if path.is_symlink() else "unreadable"
        raise Unusable(f"{what}is {reason}" if what else reason) from error


def read_caption(path: Path) -> str:
    """Returns the text of a caption file. Raises Unusable when the file is too long or not text."""
    check_file(path, "its caption ")
    try:
        if path.stat().st_size > MOST_CAPTION_BYTES:
            raise Unusable(f"its caption has more than {MOST_CAPTION_BYTES} bytes")
        return text_of(path.read_bytes()).strip()
    except OSError as error:
        raise Unusable("its caption is unreadable") from error


def text_of(data: bytes) -> str:
    """Decodes bytes and returns their text. They may be UTF-8, or UTF-16 as Windows writes it, with
    or without a byte order mark. Raises Unusable for other encodings: nobody can tell them apart
    safely, and the adapter would learn wrong words.
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
        raise Unusable("its caption is not UTF-8 text: save it as UTF-8") from error
    if "\0" in text:
        raise Unusable("its caption is not text: save it as UTF-8 text")
    return text
