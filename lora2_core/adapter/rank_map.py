"""The rank map: every layer of an adapter with its numbers, where it stands in its model."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from .layout import arrange, as_json
from .lora import RankedLora
from .model_order import in_model_order


@dataclass(frozen=True)
class Cell:
    """One layer: its row and column, its rank, the highest rank that its shape allows, the
    Frobenius norm of its update, and its bytes in fp16.
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
    """Rows and columns in the order of the model, the cells, and the mean rank of RankedLora."""

    rows: list[str]
    columns: list[str]
    cells: list[Cell]
    mean_rank: float

    def as_json(self) -> dict:
        """Returns the map for the front end."""
        cells = [vars(cell) for cell in self.cells]
        return as_json(self.rows, self.columns, cells) | {"mean_rank": round(self.mean_rank, 3)}

    def grid(
        self,
        value: Callable[[Cell], float] = lambda cell: cell.rank,
        rows: Sequence[str] | None = None,
        columns: Sequence[str] | None = None,
    ) -> np.ndarray:
        """Returns a number of every layer as an array [rows, columns], NaN where there is none; the
        rows and columns are the map's own unless others are given.
        """
        down = {row: i for i, row in enumerate(self.rows if rows is None else rows)}
        across = {name: i for i, name in enumerate(self.columns if columns is None else columns)}
        grid = np.full((len(down), len(across)), np.nan)
        for cell in self.cells:
            grid[down[cell.row], across[cell.column]] = value(cell)
        return grid


def rank_map(lora: RankedLora) -> RankMap:
    """Returns the map of every layer of an adapter, in the order of the model."""
    layers = in_model_order(lora).layers
    layout = arrange(layers)
    cells = []
    for name, layer in layers.items():
        limit = min(layer.up.shape[0], layer.down.shape[1])
        size = 2 * layer.rank * layer.cost
        cells.append(Cell(name, *layout.layers[name], layer.rank, limit, layer.norm, size))
    return RankMap(layout.rows, layout.columns, cells, lora.mean_rank)
