"""What a person asks for in a JSON file: one of ours by its name, or one of their own."""

from __future__ import annotations

import json
from dataclasses import fields
from pathlib import Path
from typing import Any


def known(folder: Path) -> str:
    """Returns the names of our own, as a sentence has them."""
    return ", ".join(sorted(path.stem for path in folder.glob("*.json")))


def read_fields(kind: type, what: str, source: str, folder: Path) -> dict[str, Any]:
    """Returns the fields of a dataclass, from a JSON file or from ours of that name in `folder`.
    ValueError where it can't be read, is no object, or has a field that `kind` has not; `what` it
    is.
    """
    path = folder / f"{source}.json"
    path = path if path.is_file() else Path(source)
    try:
        told = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ValueError(
            f"The {what} {source!r} can't be read ({error}): give a JSON file or one of "
            f"{known(folder)}."
        ) from error
    if not isinstance(told, dict):
        raise ValueError(f"The {what} {source!r} is no JSON object: see docs/protocol.md.")
    if unknown := told.keys() - {field.name for field in fields(kind)}:
        raise ValueError(
            f"The {what} has {min(unknown)!r}, which no {what} has: see docs/protocol.md."
        )
    return told
