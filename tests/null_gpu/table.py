"""Tables as Markdown."""

from __future__ import annotations

Table = list[list[str]]


def markdown(rows: Table) -> str:
    """Returns a table as Markdown."""
    lines = [f"| {' | '.join(row)} |" for row in rows]
    return "\n".join([lines[0], "|---" * len(rows[0]) + "|", *lines[1:]])
