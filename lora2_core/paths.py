"""Names of files and folders that come from a workflow, which anyone may have written.

A name must lead to a path below its folder, judged by the name alone, and a name to write must be
allowed on every platform. Links inside that folder are followed, as the host does: only somebody
with access to the disk can make them, and such a person needs no workflow to do harm.
"""

from __future__ import annotations

import ntpath
import os
import re
import unicodedata
from pathlib import Path

# bytes in UTF-8, of one part and of a name with all its folders: file systems allow 255 a part,
# from which counters and endings such as _00001_.safetensors are left over
LONGEST_PART, LONGEST = 180, 800
# names that Windows keeps for devices, with any ending
DEVICES = re.compile(
    r"(con|prn|aux|nul|conin\$|conout\$|(com|lpt)[0-9\u00b9\u00b2\u00b3])\s*(\..*)?", re.I
)
# characters that Windows forbids in names
FORBIDDEN = set('<>:"|?*')
# Unicode categories of characters that nobody sees, such as controls and marks that turn text round
UNSEEN = ("Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp")


def quoted(name: object) -> str:
    """Returns the repr of a name or any value for use in a sentence: one line, 100 characters at
    most.
    """
    text = " ".join(repr(name).split())
    return text if len(text) <= 100 else f"{text[:97]}..."


def parts_of(name: object) -> list[str] | None:
    """Returns the parts of a relative path, split at / and \\; None for anything else. Neither disk
    nor network is asked.
    """
    if not isinstance(name, str) or "\0" in name or name.startswith(("/", "\\")):
        return None
    parts = name.replace("\\", "/").split("/")
    return None if ".." in parts or any(ntpath.splitdrive(p)[0] for p in parts) else parts


def below(root: str | Path, name: object) -> Path | None:
    """Returns the absolute path of a name below a folder; None for a name that leads out of it. The
    disk is not asked, so links are neither resolved nor refused.
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
    except ValueError:  # a character that no path can have, or another drive
        return None
    return Path(target) if inside else None


def standing(root: str | Path, name: str) -> tuple[Path, str]:
    """Returns the deepest folder of a name below root that exists, and the rest of the name. Links
    among the existing folders are thereby followed; no folder of the rest exists yet.
    """
    if (parts := parts_of(name)) is None:
        raise ValueError(f"{quoted(name)} is no path below a folder: give a relative one.")
    folder = Path(root)
    while len(parts) > 1 and os.path.isdir(folder / parts[0]):
        folder /= parts.pop(0)
    return folder, "/".join(parts)


def readable(name: str) -> str:
    """Returns the name of a file as text that can be shown, sent and stored: a byte that is not
    UTF-8 becomes \\x and two digits.
    """
    return os.fsencode(name).decode(errors="backslashreplace")


def unportable(name: object) -> str | None:
    """Returns why some platform can't write a file of this name, None when all can."""
    parts = parts_of(name)
    if not isinstance(name, str) or parts is None:
        return "it is no path below a folder"
    if len(name.encode(errors="replace")) > LONGEST:
        return "it is too long"
    for part in parts:
        if not part.strip() or part in (".", ".."):
            return "a part of it is empty"
        if any(unicodedata.category(c) in UNSEEN for c in part):
            return "it has a character that can't be seen"
        if forbidden := FORBIDDEN.intersection(part):
            return f"Windows has no {min(forbidden)} in names"
        if part[-1] in " ." or part[0] == " ":
            return "a part of it begins with a space, or ends with one or a dot"
        if DEVICES.fullmatch(part):
            return f"{part} is a device of Windows"
        if len(part.encode()) > LONGEST_PART:
            return "a part of it is too long"
    return None
