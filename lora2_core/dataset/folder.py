"""The list of a folder's pictures, with captions and masks, and of what is left out and why."""

from __future__ import annotations

import os
import re
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

from ..paths import below, parts_of, quoted, readable
from .beside import CAPTIONS, check_file, mask_of, paired, read_caption, unused
from .formats import OTHERS, suffixes
from .reading import Unusable
from .sources import apart, of_folder
from .walking import NEAR, File, walk

MOST_REPEATS = 1000
# a folder called N_name, as kohya's trainer has them: repeats, and a caption
PREFIX = re.compile(r"(\d+)_(.*)", re.S)


@dataclass(frozen=True)
class Picture:
    """A picture file.

    name: its name in reports. repeats: how often it is repeated. caption: the text of its caption
    file, None without one; caption_file: that file. folder_caption: the name in N_name, if its
    folder is called so. mask: its mask file.
    """

    path: Path
    name: str
    repeats: int
    caption: str | None
    caption_file: Path | None = None
    folder_caption: str = ""
    mask: Path | None = None
    sources: tuple[Path, ...] = ()


@dataclass
class Listing:
    """The files of a folder.

    pictures: the usable ones, in order of name. skipped: reasons by the names of the others.
    unused: reasons by the names of caption, mask and source files that no picture uses. others: the
    number of other files, by ending. cut: names of pictures whose files lack their end.
    """

    pictures: list[Picture] = field(default_factory=list)
    skipped: dict[str, str] = field(default_factory=dict)
    unused: dict[str, str] = field(default_factory=dict)
    others: Counter[str] = field(default_factory=Counter)
    cut: list[str] = field(default_factory=list)


def check_folder(root: str, name: str) -> Path:
    """Returns the folder that a name below root leads to. Raises ValueError when there is none, or
    the name leads out of root.
    """
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
    """Returns N of a folder called N_name, else 1."""
    match = PREFIX.match(folder)
    if match is None:
        return 1
    repeats = int(match[1]) if len(match[1]) < 10 else MOST_REPEATS + 1
    if not 1 <= repeats <= MOST_REPEATS:
        raise ValueError(
            f"Folder {readable(folder)!r} asks for {match[1][:12]} repeats: give it a number from "
            f"1 to {MOST_REPEATS}."
        )
    return repeats


def scan(folder: Path, source_folder: Path | None = None) -> Listing:
    """Returns the files of a folder and of its direct sub-folders; pictures in a sub-folder called
    N_name are repeated N times. Pictures in deeper folders are only counted.

    source_folder: where the sources of edit pairs lie; None if beside the pictures.
    """
    listing, endings = Listing(), suffixes()
    pictures: list[File] = []
    captions: list[tuple[str, File]] = []
    masks: list[tuple[str, File]] = []
    deep: Counter[tuple[str, ...]] = Counter()
    for file in walk(folder, listing.skipped):
        ending, masked = file.path.suffix.lower(), mask_of(file.path)
        if len(file.folders) > NEAR:
            deep[file.folders] += ending in (*endings, *OTHERS) and masked is None
        elif ending in CAPTIONS:
            captions.append((file.path.stem, file))
        elif ending in endings and masked is not None:
            masks.append((masked, file))
        elif ending in endings:
            pictures.append(file)
        elif ending in OTHERS:
            listing.skipped[file.name] = f"{ending} can't be read here: convert it to png or jpg"
        else:
            listing.others[readable(ending) or "no ending"] += 1
    for folders, count in (+deep).items():
        above = readable("/".join(folders[:-1]))
        reason = f"deeper than a sub-folder, pictures {count}: choose the folder {above} in it"
        listing.skipped[readable("/".join(folders)) + "/"] = reason
    pictures, sources_of, no_sources = apart(pictures)
    if source_folder is not None:
        sources_of, no_sources = of_folder(pictures, folder, source_folder)
    captions_of, no_captions = paired(pictures, captions)
    masks_of, no_masks = paired(pictures, masks)
    listing.unused = unused("caption", captions_of, no_captions)
    listing.unused |= unused("mask", masks_of, no_masks) | no_sources
    for file in pictures:
        try:
            listing.pictures.append(
                picture_of(
                    file,
                    captions_of.get(file.path),
                    masks_of.get(file.path),
                    sources_of.get(file.path, []),
                )
            )
        except Unusable as reason:
            listing.skipped[file.name] = str(reason)
    return listing


def picture_of(
    file: File, captions: list[File] | None, masks: list[File] | None, sources: list[Path]
) -> Picture:
    """Returns a picture with the first of its captions and masks, and its sources. Raises Unusable
    when one of these files can't be used.
    """
    check_file(file.path)
    caption = caption_file = mask = None
    if captions:
        caption_file = captions[0].path
        caption = read_caption(caption_file)
    if masks:
        mask = masks[0].path
        check_file(mask, "its mask ")
    for source in sources:
        check_file(source, "its source ")
    outer = file.folders[-1] if file.folders else ""
    words = match[2].strip() if (match := PREFIX.match(outer)) else ""
    if readable(words) != words:  # escapes of bytes are no words
        words = ""
    facts = file.path, file.name, repeats_of(outer), caption, caption_file, words, mask
    return Picture(*facts, tuple(sources))
