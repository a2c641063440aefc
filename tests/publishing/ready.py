"""Says what a person must still fill in before this version can be published.

python -m tests.publishing.ready [vX.Y.Z]
"""

from __future__ import annotations

import re
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PLACEHOLDER = "FILL-IN"
FIELD = r'^{}\s*=\s*"([^"]*)"'  # no TOML reader in Python 3.10


def field(text: str, name: str) -> str:
    """A string field of pyproject.toml, "" where it is missing."""
    found = re.search(FIELD.format(re.escape(name)), text, re.MULTILINE)
    return found[1] if found else ""


def faults(text: str, changelog: str, tag: str | None = None) -> list[str]:
    """A sentence for each thing that is missing; text is that of pyproject.toml."""
    found = []
    for name in ("PublisherId", "Repository", "Icon", "Banner"):
        value = field(text, name)
        if not value or PLACEHOLDER in value:
            found.append(f"{name} in pyproject.toml is {value!r}: fill it in.")
    version = field(text, "version")
    if not re.fullmatch(r"\d+\.\d+\.\d+", version):
        found.append(f"version in pyproject.toml is {version!r}: it must be X.Y.Z.")
    if tag is not None and tag != f"v{version}":
        found.append(f"The tag is {tag}, but the version is {version}.")
    heading = re.search(rf"^## {re.escape(version)}\b(.*)$", changelog, re.MULTILINE)
    if heading is None:
        found.append(f"CHANGELOG.md has no section {version}.")
    elif tag is not None and "not published" in heading[1]:
        found.append(f"CHANGELOG.md calls {version} not published yet: give it its date.")
    return found


def main() -> None:
    texts = [
        (ROOT / name).read_text(encoding="utf-8") for name in ("pyproject.toml", "CHANGELOG.md")
    ]
    found = faults(*texts, tag=sys.argv[1] if len(sys.argv) > 1 else None)
    sys.exit("\n".join(found) if found else 0)


if __name__ == "__main__":
    main()
