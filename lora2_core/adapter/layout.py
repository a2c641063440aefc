"""Where a layer stands in its model, as its name says: its block is a row, its module a column."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass

from .model_order import of_text_encoder
from .names import FILE_PREFIXES, HOST_PREFIX, KOHYA_PREFIX

ONLY_BLOCK = ", block 0"  # the end of a row that no other block of its kind needs to be told from
_SIDES = {
    "input": "down",
    "down": "down",
    "middle": "mid",
    "mid": "mid",
    "output": "up",
    "up": "up",
}
OTHER_LAYERS = "other layers"  # the part that layers outside of all blocks make
_UNET = re.compile(
    r"(input_blocks|middle_block|output_blocks|down_blocks|mid_block|up_blocks)\.?([\d.]*?)\.?"
    r"(?:attentions\.(\d+)\.)?transformer_blocks\.(\d+)\.(.+)$"
)
_LAST_NUMBER = re.compile(r"^(.*\.\d+)\.(.+)$")
_LOST_DOT = re.compile(r"_(?=\d|attentions_)|(?<=\d)_")  # of a kohya name, beside numbers
_TEXT_LEAF = re.compile(r"_(q|k|v|out)_proj$")
_ATTENTION = {"attn1": "self", "attn2": "cross"}
_UNET_ROW = re.compile(r"(down|mid|up)(?: ([0-9.]+))?(?:, block ([0-9]+))?")
_NUMBERED_ROW = re.compile(r"(.*?)[ ._]?([0-9]+)")
_LEAF = re.compile(r"([^ .]+)[ .](.+)")


def position(name: str) -> tuple[str, str]:
    """Returns the row and the column of a layer: a transformer block of a UNet and the module in
    it, in any other model the path to the last number of the name and the rest.
    """
    path = name.removeprefix(HOST_PREFIX)
    if name.startswith(FILE_PREFIXES):
        path = _LOST_DOT.sub(".", name.removeprefix(KOHYA_PREFIX)).replace(".ff_net.", ".ff.net.")
    path = re.sub(r"\.to_out\.0$", ".to_out", path)
    if match := _UNET.search(path):
        side_name, numbers, attention, block, rest = match.groups()
        side = _SIDES[side_name.split("_")[0]]
        index = ".".join(filter(None, [numbers.split(".")[0] if numbers else "", attention]))
        row = side if side == "mid" else f"{side} {index}".strip()
        module, _, leaf = rest.partition(".")
        column = f"{_ATTENTION.get(module, module)} {leaf.removeprefix('to_')}".strip()
        return f"{row}, block {block}", column
    if match := _LAST_NUMBER.match(path):
        return match.group(1), match.group(2)
    return "", path


@dataclass(frozen=True)
class Block:
    """What the name of a row says: "down 4, block 3" is number 3 at index 4 of the part "down" of a
    UNet, "double_blocks.7" is number 7 of the part "double blocks".
    """

    part: str
    index: str
    number: str
    unet: bool


@dataclass(frozen=True)
class Module:
    """What the name of a column says: "img_attn.qkv" is "img_attn qkv" of the group "img_attn"; the
    group is "" for a module that has no parts.
    """

    group: str
    label: str


def block_of(row: str) -> Block:
    """Returns what the name of a row says of its block."""
    if match := _UNET_ROW.fullmatch(row):
        part, index, number = (text or "" for text in match.groups())
        return Block(part, index, number, unet=True)
    match = _NUMBERED_ROW.fullmatch(row)
    path, number = match.groups() if match else (row, "")
    return Block(re.sub(r"[._]+", " ", path).strip() or OTHER_LAYERS, "", number, unet=False)


def module_of(column: str) -> Module:
    """Returns what the name of a column says of its module."""
    match = _LEAF.fullmatch(column)
    return Module(match.group(1), column.replace(".", " ", 1)) if match else Module("", column)


def as_json(rows: list[str], columns: list[str], cells: list[dict]) -> dict:
    """Returns a layout for the front end: cells with their "name", "row" and "column", and what the
    rows and columns say, in their order.
    """
    return {
        "rows": rows,
        "columns": columns,
        "cells": cells,
        "blocks": [vars(block_of(row)) for row in rows],
        "modules": [vars(module_of(column)) for column in columns],
    }


@dataclass(frozen=True)
class Layout:
    """Rows and columns in the order of the model, and the row and column of every layer."""

    rows: list[str]
    columns: list[str]
    layers: dict[str, tuple[str, str]]

    def as_json(self) -> dict:
        """Returns the layout for the front end, its cells without numbers."""
        cells = [{"name": n, "row": r, "column": c} for n, (r, c) in self.layers.items()]
        return as_json(self.rows, self.columns, cells)


def arrange(names: Iterable[str]) -> Layout:
    """Returns the layout of layers whose names come in the order of the model."""
    layers = {name: position(name) for name in names}
    inner = [row for name, (row, _) in layers.items() if not of_text_encoder(name)]
    if all(row.endswith(ONLY_BLOCK) for row in inner):
        layers = {n: (row.removesuffix(ONLY_BLOCK), column) for n, (row, column) in layers.items()}
    rows = list(dict.fromkeys(row for row, _ in layers.values()))
    columns = sorted(dict.fromkeys(column for _, column in layers.values()), key=_column_order)
    return Layout(rows, columns, layers)


def _column_order(column: str) -> tuple:
    module, _, leaf = _TEXT_LEAF.sub(r" \1", column).partition(" ")
    modules, leaves = ("self", "cross"), ("q", "k", "v", "out")
    return (
        modules.index(module) if module in modules else len(modules),
        module,
        leaves.index(leaf) if leaf in leaves else len(leaves),
        leaf,
    )
