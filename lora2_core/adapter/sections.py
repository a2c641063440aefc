"""A rank map in sections: rows that have columns in common stand together, text encoders last."""

from __future__ import annotations

import re
from dataclasses import dataclass

from .layout import ONLY_BLOCK
from .model_order import order_key
from .rank_map import Cell, RankMap

NO_NAME = "\u2013"  # of a row whose name is the section's title alone
_TEXT_ENCODER = re.compile(r"lora_te\d*|text_encoder(_\d+)?(?=\.)|text_encoders\.\w+")


@dataclass(frozen=True)
class Section(RankMap):
    """Rows that have their columns in common; `title` is the path that all their names begin
    with.
    """

    title: str

    @property
    def labels(self) -> list[str]:
        """Returns the names of the rows without what all of them say."""
        rows = [row.removeprefix(self.title).lstrip(".") or NO_NAME for row in self.rows]
        if all(row.endswith(ONLY_BLOCK) for row in rows):
            return [row.removesuffix(ONLY_BLOCK) for row in rows]
        return rows


def sections(table: RankMap) -> list[Section]:
    """Returns a rank map in sections: each row is with every row that shares a column with it,
    except that a text encoder shares none. The largest section is the first one, those of text
    encoders are the last.
    """
    cells_of: dict[str, list[Cell]] = {}
    for cell in table.cells:
        cells_of.setdefault(cell.row, []).append(cell)
    groups: list[tuple[set, list[str]]] = []
    for row in table.rows:
        columns, rows = {(encoder_of(row), cell.column) for cell in cells_of[row]}, [row]
        for group in [g for g in groups if g[0] & columns]:
            columns, rows = columns | group[0], group[1] + rows
            groups.remove(group)
        groups.append((columns, rows))
    made = []
    for columns, rows in groups:
        names = sorted({column for _, column in columns}, key=column_key)
        cells = [cell for row in rows for cell in cells_of[row]]
        made.append(Section(rows, names, cells, table.mean_rank, beginning(rows)))
    return sorted(made, key=lambda s: (1, 0) if encoder_of(s.rows[0]) else (0, -len(s.cells)))


def encoder_of(row: str) -> str:
    """Returns the text encoder that a row belongs to, "" for none."""
    match = _TEXT_ENCODER.match(row)
    return match.group() if match else ""


def column_key(column: str) -> tuple:
    """Sorts columns: self-attention, cross-attention, then the rest in the order of the model."""
    return {"self": 0, "cross": 1}.get(column.partition(" ")[0], 2), order_key(column)


def beginning(rows: list[str]) -> str:
    """Returns the dotted path that all rows begin with, "" for none."""
    split = [row.split(".")[:-1] for row in rows]
    same = 0
    for words in zip(*split, strict=False):
        if len(set(words)) > 1:
            break
        same += 1
    return ".".join(split[0][:same])
