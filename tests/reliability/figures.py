"""The figures of docs/reliability.md: what a session measured, kept where the page finds it."""

from __future__ import annotations

import json
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


def keep(session: str, figures: list[Figure]) -> None:
    """Prints the figures, and writes them as the session's results."""
    RESULTS.mkdir(exist_ok=True)
    for figure in figures:
        print(told(figure), flush=True)
    rows = {"command": f"nox -s {session}", "date": date.today().isoformat()}
    rows |= {"figures": [asdict(figure) for figure in figures]}
    text = json.dumps(rows, indent=1, ensure_ascii=False) + "\n"
    (RESULTS / f"{session}.json").write_text(text, encoding="utf-8")


def kept() -> dict[int, list[tuple[Figure, str]]]:
    """Every kept figure by number, with the command that printed it."""
    found: dict[int, list[tuple[Figure, str]]] = {}
    for path in sorted(RESULTS.glob("*.json")):
        rows = json.loads(path.read_text(encoding="utf-8"))
        for row in rows["figures"]:
            figure = Figure(**row)
            found.setdefault(figure.number, []).append((figure, rows["command"]))
    return found
