"""Names of files and folders that a workflow gives, which may come from anyone: they lie below a
folder, by the name alone, and what is written has a name that every platform allows.

Links that stand in that folder are followed, as the host does: only somebody with access to the
disk can have put them there, and who has that needs no workflow.
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
    """Returns a name, or any value, in a sentence: on one line, of a length that can be read."""
    text = " ".join(repr(name).split())
    return text if len(text) <= 100 else f"{text[:97]}..."


def parts_of(name: object) -> list[str] | None:
    """Returns the parts of a relative path with either kind of slash; None for anything else, so
    that no disk or network is asked for it.
    """
    if not isinstance(name, str) or "\0" in name or name.startswith(("/", "\\")):
        return None
    parts = name.replace("\\", "/").split("/")
    return None if ".." in parts or any(ntpath.splitdrive(p)[0] for p in parts) else parts


def below(root: str | Path, name: object) -> Path | None:
    """Returns the path of something below a folder; None for a name that leads out of it. Nothing
    on the disk is asked, so links are neither resolved nor refused.
    """
    if (parts := parts_of(name)) is None:
        return None
    if any(part != "." and part and not part.strip(" .") for part in parts):
        return None  # Windows drops spaces and dots at the end: ".. " would be ".."
    try:
        root = os.path.abspath(root)
        target = os.path.abspath(os.path.join(root, *parts))
        os.fsencode(target)
        inside = target != root and os.path.commonpath([root, target]) == root
    except ValueError:  # characters that no path can have, or another drive
        return None
    return Path(target) if inside else None


def standing(root: str | Path, name: str) -> tuple[Path, str]:
    """Returns the last folder on the way to a name below root that is there, and the rest of the
    name: a link on that way is passed here, and what comes after it is ordinary.
    """
    folder, parts = Path(root), parts_of(name)
    while len(parts) > 1 and os.path.isdir(folder / parts[0]):
        folder /= parts.pop(0)
    return folder, "/".join(parts)


def readable(name: str) -> str:
    """Returns a name of the disk as text that can be shown, sent and stored: bytes that are no
    UTF-8, for which Python puts half characters, become \\x and two digits.
    """
    return os.fsencode(name).decode(errors="backslashreplace")


def unportable(name: object) -> str | None:
    """Returns why a name can't be written on every platform, None when it can."""
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
