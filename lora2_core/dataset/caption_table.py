"""A folder's pictures with their captions, as the table inside LoRA² Dataset shows them."""

from __future__ import annotations

from collections import defaultdict
from itertools import islice
from pathlib import Path

from ..checks import check_range
from ..paths import quoted, readable, unportable
from .beside import CAPTIONS
from .folder import Listing, Picture, scan
from .report import MOST_NAMES

# rows of an answer. A caption has 64 kB at most, so an answer has 6.5 MB at most
MOST_ROWS = 100


def caption_table(folder: Path, first: int, count: int) -> dict:
    """Returns `count` rows of the table of a folder from row `first` on, for JSON.

    rows: of each picture in order of name. name: as reports have it. folders, file: where it lies
        below the folder; file is "" if its name is not UTF-8. caption: the text of its caption
        file, None without one. caption_file: that file's name. folder_caption: the name in N_name.
        text_file: the name that an edited caption is saved under. shared: names of other pictures
        with the same text_file. locked: why it can't be edited, "" if it can.
    pictures: the number of all. skipped: up to 20 names and reasons of files that are left out;
        more_skipped: the number of further ones.

    Raises ValueError if the folder can't be read, or for numbers out of range.
    """
    check_range("first", first, 0, 10**9, integer=True)
    check_range("count", count, 1, MOST_ROWS, integer=True)
    listing = scan(folder)
    texts: dict[Path, list[Picture]] = defaultdict(list)
    for picture in listing.pictures:
        texts[text_file(picture)].append(picture)
    shown = listing.pictures[first : first + count]
    rows = [row(folder, picture, texts[text_file(picture)]) for picture in shown]
    return {"rows": rows, "pictures": len(listing.pictures)} | left_out(listing)


def text_file(picture: Picture) -> Path:
    """Returns the file that an edited caption of a picture is saved in. No other caption file comes
    before it, since it has the picture's name to the letter and the first of the endings.
    """
    return picture.path.with_name(picture.path.stem + CAPTIONS[0])


def row(folder: Path, picture: Picture, same: list[Picture]) -> dict:
    """Returns the row of a picture. same: all pictures with its text file."""
    below = picture.path.relative_to(folder)
    known = readable(picture.path.name) == picture.path.name
    own = picture.caption_file
    return {
        "name": picture.name,
        "folders": readable("/".join(below.parts[:-1])),
        "file": picture.path.name if known else "",
        "caption": picture.caption,
        "caption_file": "" if own is None else readable(own.name),
        "folder_caption": picture.folder_caption,
        "text_file": readable(text_file(picture).name),
        "shared": [other.name for other in same if other is not picture][:MOST_NAMES],
        "locked": locked(folder, picture),
    }


def locked(folder: Path, picture: Picture) -> str:
    """Returns why the caption of a picture can't be saved from a browser, "" if it can."""
    target = text_file(picture)
    name = target.relative_to(folder).as_posix()
    if fault := unportable(name) or ("\\" in name and "Windows has no \\ in names"):
        return f"{quoted(readable(name))} can't be written on every platform: {fault}"
    if target.is_symlink():
        return f"{quoted(name)} is a link: edit the file that it leads to"
    if target.exists() and not target.is_file():
        return f"{quoted(name)} is not a regular file"
    return ""


def left_out(listing: Listing) -> dict:
    """Returns the files that are left out, with their reasons, and the number of further ones."""
    reasons = listing.skipped
    named = dict(islice(reasons.items(), MOST_NAMES))
    return {"skipped": named, "more_skipped": len(reasons) - len(named)}
