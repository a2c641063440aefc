"""The rank map: the layers of a model in a table, with a row for each block and a column for each
module of a block.
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
_LOST_DOT = re.compile(
    r"_(?=\d|attentions_)|(?<=\d)_"
)  # underscores that were dots in a kohya name
_TEXT_LEAF = re.compile(r"_(q|k|v|out)_proj$")
_ATTENTION = {"attn1": "self", "attn2": "cross"}


@dataclass(frozen=True)
class Cell:
    """One layer of the map.

    max_rank: what the layer's shape allows. norm: the Frobenius norm of the update. bytes: in fp16.
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
    """Names of rows and columns in the order of the model, and the cells."""

    rows: list[str]
    columns: list[str]
    cells: list[Cell]

    def as_json(self) -> dict:
        """Returns the map in JSON values, for the front end."""
        return {"rows": self.rows, "columns": self.columns, "cells": [vars(c) for c in self.cells]}


def row_and_column(name: str) -> tuple[str, str]:
    """Returns the names of a layer's row and column. The row is a transformer block of a UNet, or
    in other models the path up to the last number.
    """
    path = name.removeprefix(HOST_PREFIX)
    if name.startswith(FILE_PREFIXES):
        path = _LOST_DOT.sub(".", name.removeprefix(KOHYA_PREFIX)).replace(".ff_net.", ".ff.net.")
    path = re.sub(r"\.to_out\.0$", ".to_out", path)
    if match := _UNET.search(path):
        blocks, numbers, attention, block, rest = match.groups()
        index = ".".join(filter(None, [numbers.split(".")[0] if numbers else "", attention]))
        side = _SIDES[blocks.split("_")[0]]
        row = side if side == "mid" else f"{side} {index}".strip()
        module, _, leaf = rest.partition(".")
        column = f"{_ATTENTION.get(module, module)} {leaf.removeprefix('to_')}".strip()
        return f"{row}, block {block}", column
    if match := _LAST_NUMBER.match(path):
        return match.group(1), match.group(2)
    return "", path


@dataclass(frozen=True)
class Layout:
    """Names of rows and columns in the order of the model, and (row, column) of each layer."""

    rows: list[str]
    columns: list[str]
    layers: dict[str, tuple[str, str]]

    def as_json(self) -> dict:
        """Returns the layout in JSON values, for the front end: a rank map without numbers."""
        cells = [{"name": n, "row": r, "column": c} for n, (r, c) in self.layers.items()]
        return {"rows": self.rows, "columns": self.columns, "cells": cells}


def arrange(names: Iterable[str]) -> Layout:
    """Returns the layout of layers, whose names come in the order of the model."""
    layers = {name: row_and_column(name) for name in names}
    inner = [row for name, (row, _) in layers.items() if not of_text_encoder(name)]
    if all(row.endswith(", block 0") for row in inner):
        layers = {n: (row.removesuffix(", block 0"), column) for n, (row, column) in layers.items()}
    rows = list(dict.fromkeys(row for row, _ in layers.values()))
    columns = sorted(dict.fromkeys(column for _, column in layers.values()), key=_column_order)
    return Layout(rows, columns, layers)


def rank_map(lora: RankedLora) -> RankMap:
    """Returns the rank map of an adapter."""
    layers = in_model_order(lora).layers
    layout = arrange(layers)
    cells = []
    for name, layer in layers.items():
        limit = min(layer.up.shape[0], layer.down.shape[1])
        size = 2 * layer.rank * layer.cost
        cells.append(Cell(name, *layout.layers[name], layer.rank, limit, layer.norm, size))
    return RankMap(layout.rows, layout.columns, cells)


def _column_order(column: str) -> tuple:
    """Returns the key by which columns sort: self- before cross-attention; q, k, v, out."""
    module, _, leaf = _TEXT_LEAF.sub(r" \1", column).partition(" ")
    modules, leaves = ("self", "cross"), ("q", "k", "v", "out")
    return (
        modules.index(module) if module in modules else len(modules),
        module,
        leaves.index(leaf) if leaf in leaves else len(leaves),
        leaf,
    )
