"""The figures of docs/reliability.md: what a session measured, kept where the page finds it."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from datetime import date
from pathlib import Path

RESULTS = Path(__file__).with_name("results")


@dataclass(frozen=True)
class Figure:
    """number: of docs/reliability.md. measured: in words, with its counts. met: whether it is the
    goal to the full, repeats included.
    """

    number: int
    measured: str
    met: bool


def told(figure: Figure) -> str:
    return f"figure {figure.number:2}: {'met' if figure.met else 'NOT MET'}: {figure.measured}"


def keep(session: str, figures: Iterable[Figure], part: str = "") -> None:
    """Prints each figure once it is measured, and writes it among the session's results, in place
    of an older one.
    """
    RESULTS.mkdir(exist_ok=True)
    path = RESULTS / f"{session}{part}.json"
    rows = json.loads(path.read_text(encoding="utf-8"))["figures"] if path.is_file() else []
    found = {row["number"]: row for row in rows}
    for figure in figures:
        print(told(figure), flush=True)
        found[figure.number] = asdict(figure) | {"date": date.today().isoformat()}
        kept_rows = {"command": f"nox -s {session}", "figures": list(found.values())}
        text = json.dumps(kept_rows, indent=1, ensure_ascii=False) + "\n"
        path.write_text(text, encoding="utf-8")


def kept() -> dict[int, list[tuple[Figure, str]]]:
    """Every kept figure by number, with the command that printed it."""
    found: dict[int, list[tuple[Figure, str]]] = {}
    for path in sorted(RESULTS.glob("*.json")):
        rows = json.loads(path.read_text(encoding="utf-8"))
        for row in rows["figures"]:
            figure = Figure(row["number"], row["measured"], row["met"])
            found.setdefault(figure.number, []).append((figure, rows["command"]))
    return found
