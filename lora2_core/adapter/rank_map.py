"""The rank map: where each layer stands in its model, as rows (blocks) and columns (modules of a
block).
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass

from .lora import RankedLora
from .model_order import in_model_order, of_text_encoder
from .names import FILE_PREFIXES, HOST_PREFIX, KOHYA_PREFIX

_UNET = re.compile(
    r"(input_blocks|middle_block|output_blocks|down_blocks|mid_block|up_blocks)\.?([\d.]*?)\.?"
    r"(?:attentions\.(\d+)\.)?transformer_blocks\.(\d+)\.(.+)$"
)
_SIDES = {
    "input": "down",
    "down": "down",
    "middle": "mid",
    "mid": "mid",
    "output": "up",
    "up": "up",
}
_LAST_NUMBER = re.compile(r"^(.*\.\d+)\.(.+)$")
_LOST_DOT = re.compile(r"_(?=\d|attentions_)|(?<=\d)_")  # of a kohya name, beside numbers
_TEXT_LEAF = re.compile(r"_(q|k|v|out)_proj$")
_ATTENTION = {"attn1": "self", "attn2": "cross"}


@dataclass(frozen=True)
class Cell:
    """One layer: its place, rank, the most its shape allows, the update's Frobenius norm and bytes
    in fp16.
    """

    name: str
    row: str
    column: str
    rank: int
    max_rank: int
    norm: float
    bytes: int


@dataclass(frozen=True)
class RankMap:
    """Rows and columns in the model's own order, and the cells."""

    rows: list[str]
    columns: list[str]
    cells: list[Cell]

    def as_json(self) -> dict:
        """Returns the map as JSON values for the front end."""
        return {"rows": self.rows, "columns": self.columns, "cells": [vars(c) for c in self.cells]}


def place(name: str) -> tuple[str, str]:
    """Returns (row, column) of a layer's name: a transformer block of a UNet, else the path to its
    last number.
    """
    path = name.removeprefix(HOST_PREFIX)
    if name.startswith(FILE_PREFIXES):
        path = _LOST_DOT.sub(".", name.removeprefix(KOHYA_PREFIX)).replace(".ff_net.", ".ff.net.")
    path = re.sub(r"\.to_out\.0$", ".to_out", path)
    if found := _UNET.search(path):
        side, numbers, attention, block, rest = found.groups()
        index = ".".join(filter(None, [numbers.split(".")[0] if numbers else "", attention]))
        row = (
            f"{_SIDES[side.split('_')[0]]} {index}".strip()
            if _SIDES[side.split("_")[0]] != "mid"
            else "mid"
        )
        module, _, leaf = rest.partition(".")
        column = f"{_ATTENTION.get(module, module)} {leaf.removeprefix('to_')}".strip()
        return f"{row}, block {block}", column
    if found := _LAST_NUMBER.match(path):
        return found.group(1), found.group(2)
    return "", path


@dataclass(frozen=True)
class Places:
    """Rows and columns in the model's own order, and the [row, column] of each layer."""

    rows: list[str]
    columns: list[str]
    layers: dict[str, tuple[str, str]]

    def as_json(self) -> dict:
        """Returns JSON values for the front end: cells as in a rank map, without numbers."""
        cells = [{"name": n, "row": r, "column": c} for n, (r, c) in self.layers.items()]
        return {"rows": self.rows, "columns": self.columns, "cells": cells}


def arrange(names: Iterable[str]) -> Places:
    """Places layers whose names come in the order of the model."""
    layers = {name: place(name) for name in names}
    inner = [row for name, (row, _) in layers.items() if not of_text_encoder(name)]
    if all(row.endswith(", block 0") for row in inner):
        layers = {n: (row.removesuffix(", block 0"), column) for n, (row, column) in layers.items()}
    rows = list(dict.fromkeys(row for row, _ in layers.values()))
    columns = sorted(dict.fromkeys(column for _, column in layers.values()), key=_column_order)
    return Places(rows, columns, layers)


def rank_map(lora: RankedLora) -> RankMap:
    """Places every layer of an adapter, in the order of the model."""
    layers = in_model_order(lora).layers
    places = arrange(layers)
    cells = []
    for name, layer in layers.items():
        limit = min(layer.up.shape[0], layer.down.shape[1])
        size = 2 * layer.rank * layer.cost
        cells.append(Cell(name, *places.layers[name], layer.rank, limit, layer.norm, size))
    return RankMap(places.rows, places.columns, cells)


def _column_order(column: str) -> tuple:
    module, _, leaf = _TEXT_LEAF.sub(r" \1", column).partition(" ")
    modules, leaves = ("self", "cross"), ("q", "k", "v", "out")
    return (
        modules.index(module) if module in modules else len(modules),
        module,
        leaves.index(leaf) if leaf in leaves else len(leaves),
        leaf,
    )
