"""Plans, searches and jobs in JSON or TOML files: a preset of the pack, by its name, or a file of
the user.
"""

from __future__ import annotations

import json
from dataclasses import fields
from pathlib import Path
from typing import Any


def known(folder: Path) -> str:
    """Returns the names of the presets in a folder, with commas between them."""
    return ", ".join(sorted(path.stem for path in folder.glob("*.json")))


def parsed(path: Path) -> Any:
    """Returns the value of a JSON file, or of a TOML file by its ending. Raises ValueError for what
    is neither.
    """
    text = path.read_text(encoding="utf-8")
    if path.suffix.lower() != ".toml":
        return json.loads(text)
    try:
        import tomllib
    except ImportError as error:
        raise ValueError("TOML needs Python 3.11") from error
    return tomllib.loads(text)


def read_fields(kind: type, what: str, source: str, folder: Path) -> dict[str, Any]:
    """Returns the fields of the dataclass `kind` in a JSON file, or in the preset of that name.

    what: the word for it in errors, such as "plan". folder: the presets. Raises ValueError when the
    file can't be read, is no JSON object, or has a field that `kind` lacks.
    """
    path = folder / f"{source}.json"
    path = path if path.is_file() else Path(source)
    try:
        values = parsed(path)
    except (OSError, ValueError) as error:
        presets = f"or one of {known(folder)}" if known(folder) else "as docs/protocol.md has it"
        raise ValueError(
            f"The {what} {source!r} can't be read ({error}): give a JSON file {presets}."
        ) from error
    if not isinstance(values, dict):
        raise ValueError(f"The {what} {source!r} is no JSON object: see docs/protocol.md.")
    if unknown := values.keys() - {field.name for field in fields(kind)}:
        raise ValueError(
            f"The {what} has {min(unknown)!r}, which no {what} has: see docs/protocol.md."
        )
    return values
