"""Names of files and folders that a workflow gives, which may come from anyone: they lie below a
folder, links followed, and what is written has a name that every platform allows.
"""

from __future__ import annotations

import ntpath
import os
import re
import unicodedata
from pathlib import Path

LONGEST_PART, LONGEST = 180, 800  # bytes in UTF-8: a file system takes 255, with our own endings
DEVICES = re.compile(
    r"(con|prn|aux|nul|conin\$|conout\$|(com|lpt)[0-9\u00b9\u00b2\u00b3])\s*(\..*)?", re.I
)
FORBIDDEN = set('<>:"|?*')  # by Windows
UNSEEN = (
    "Cc",
    "Cf",
    "Cs",
    "Co",
    "Cn",
    "Zl",
    "Zp",
)  # controls, marks that turn text


def quoted(name: object) -> str:
    """A name, or any value, in a sentence: on one line, of a length that can be read."""
    text = " ".join(repr(name).split())
    return text if len(text) <= 100 else f"{text[:97]}..."


def parts_of(name: object) -> list[str] | None:
    """The parts of a relative path with either kind of slash; None for anything else, so that no
    disk or network is asked for it.
    """
    if not isinstance(name, str) or "\0" in name or name.startswith(("/", "\\")):
        return None
    parts = name.replace("\\", "/").split("/")
    return None if ntpath.splitdrive(name)[0] or ".." in parts else parts


def below(root: str | Path, name: object) -> Path | None:
    """The real path of something below a folder; None for a name that leads out of it."""
    if (parts := parts_of(name)) is None:
        return None
    try:
        root = os.path.realpath(root)
        target = os.path.realpath(os.path.join(root, *parts))
        inside = target != root and os.path.commonpath([root, target]) == root
    except (OSError, ValueError):  # characters that no path can have, or a path too long
        return None
    return Path(target) if inside else None


def unportable(name: object) -> str | None:
    """Why a name can't be written on every platform, None when it can."""
    parts = parts_of(name)
    if parts is None:
        return "it is no path below a folder"
    if len(name.encode(errors="replace")) > LONGEST:
        return "it is too long"
    for part in parts:
        if not part.strip() or part in (".", ".."):
            return "a part of it is empty"
        if any(unicodedata.category(c) in UNSEEN for c in part):
            return "it has a character that can't be seen"
        if found := FORBIDDEN.intersection(part):
            return f"Windows has no {min(found)} in names"
        if part[-1] in " ." or part[0] == " ":
            return "a part of it begins with a space, or ends with one or a dot"
        if DEVICES.fullmatch(part):
            return f"{part} is a device of Windows"
        if len(part.encode()) > LONGEST_PART:
            return "a part of it is too long"
    return None
