"""The table of docs/models.md: written from rows, and read for the classes that it has."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable
from pathlib import Path

PAGE = Path(__file__).resolve().parents[2] / "docs" / "models.md"
HEAD = "| class | | layers | idle | |\n|---|---|---|---|---|"
ROW = re.compile(
    r"^\| (\w+) \| (works|no diffusion model|refused) \| (\d*) \| (\d*) \| (.*) \|$", re.MULTILINE
)
BEGIN, END = "<!-- the table of `nox -s models` -->", "<!-- its end -->"


def line(row: dict) -> str:
    """Returns a row of the table."""
    numbers = f"{row['layers'] or ''} | {row['idle'] or ''}"
    why = row["why"].replace("|", "/")
    return f"| {row['name']} | {row['verdict']} | {numbers} | {why} |"


def total(rows: Iterable[dict]) -> str:
    """Returns the last line."""
    counts = Counter(row["verdict"] for row in rows)
    works, without, refused = (counts[v] for v in ("works", "no diffusion model", "refused"))
    return (
        f"models: {works} work, {without} no diffusion model, {refused} refused, "
        f"{counts.total()} classes"
    )


def known() -> dict[str, dict]:
    """Returns class -> row of the page."""
    text = PAGE.read_text(encoding="utf-8").partition(BEGIN)[2].partition(END)[0]
    return {
        name: {"name": name, "verdict": verdict, "layers": int(layers or 0),
               "idle": int(idle or 0), "why": why}
        for name, verdict, layers, idle, why in ROW.findall(text)
    }  # fmt: skip


def write(rows: list[dict], order: list[str]) -> None:
    """Writes rows into the table of the page, those of other classes stay: in this order, which has
    all classes that the host supports.
    """
    text = PAGE.read_text(encoding="utf-8")
    before, _, rest = text.partition(BEGIN)
    after = rest.partition(END)[2]
    every = known() | {row["name"]: row for row in rows}
    rows = [every[name] for name in order if name in every]
    table = "\n".join([HEAD, *map(line, rows), "", f"`{total(rows)}`"])
    PAGE.write_text(f"{before}{BEGIN}\n\n{table}\n\n{END}{after}", encoding="utf-8")


ENCODERS = "<!-- the table of `nox -s models -- --encoders` -->", "<!-- end of encoders -->"
ENCODER_HEAD = (
    "| text encoder of | | layers | idle | the first layer in a file |\n|---|---|---|---|---|"
)


def encoders(rows: list[dict], *, write: bool) -> None:
    """Prints the table of text encoders, and writes it into the page."""
    lines = [line(row) for row in rows]
    works = sum(row["verdict"] == "works" for row in rows)
    last = f"`text encoders: {works} work, {len(rows) - works} refused`"
    print("\n".join([ENCODER_HEAD, *lines, last]))
    if write:
        text = PAGE.read_text(encoding="utf-8")
        before, _, rest = text.partition(ENCODERS[0])
        after = rest.partition(ENCODERS[1])[2]
        table = "\n".join([ENCODER_HEAD, *lines, "", last])
        text = f"{before}{ENCODERS[0]}\n\n{table}\n\n{ENCODERS[1]}{after}"
        PAGE.write_text(text, encoding="utf-8")
