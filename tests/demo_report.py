"""What the demo shows: a line that follows the run, and a table of the learned ranks."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING

from PIL import Image

if TYPE_CHECKING:  # imports torch: not before the demo needs it
    from lora2_core.adapter.rank_map import RankMap

# What the terminal says while a node works; nodes that take no time are not listed.
DOING = {
    "model": "loading the model",
    "dataset": "encoding the pictures",
    "train": "training",
    "before sampler": "drawing without the adapter",
    "after sampler": "drawing with the adapter",
}
MANY_BLOCKS = 24


class Progress:
    """Prints the server's events as one line that is rewritten; to a file, a line now and then."""

    def __init__(self, steps: int):
        self._steps, self._doing = steps, ""
        self._live = sys.stdout.isatty()
        self._printed = 0

    def __call__(self, event: dict) -> None:
        data = event.get("data") or {}
        if event["type"] == "executing" and data.get("node") in DOING:
            self._doing = DOING[data["node"]]
            self._show(f"{self._doing}…", new=True)
        elif event["type"] == "lora2.train":
            self._show(self._training(data), new=False, step=data["step"])

    def _training(self, data: dict) -> str:
        steps = data.get("steps") or self._steps
        loss = "none" if data["loss"] is None else f"{data['loss']:.4f}"  # JSON has no NaN
        return (
            f"step {data['step']:>{len(str(steps))}}/{steps}   loss {loss}   "
            f"mean rank {data['mean_rank']:.1f}   {data['mb']:.2f} MB"
        )

    def _show(self, text: str, new: bool, step: int = 0) -> None:
        if self._live:
            print(f"\n{text}" if new else f"\r{text}\x1b[K", end="", flush=True)
        elif new or step - self._printed >= self._steps // 10:
            self._printed = 0 if new else step
            print(text, flush=True)

    def close(self) -> None:
        """Ends the line."""
        if self._live:
            print(flush=True)


def rank_table(table: RankMap) -> str:
    """Blocks by modules, or, for a model of many blocks, the highest and the lowest."""
    ranks = [cell.rank for cell in table.cells]
    mean = sum(ranks) / len(ranks)
    title = f"Learned ranks: mean {mean:.1f}, from {min(ranks)} to {max(ranks)}"
    if len(table.rows) > MANY_BLOCKS:
        ordered = sorted(table.cells, key=lambda cell: -cell.rank)
        lines = [f"{cell.rank:>5}  {cell.row}, {cell.column}" for cell in ordered]
        return "\n".join([title, *lines[:8], "  …", *lines[-8:]])
    cells = {(cell.row, cell.column): cell.rank for cell in table.cells}
    wide = max(map(len, table.rows))
    lines = [" " * wide + "".join(f"  {column}" for column in table.columns)]
    for row in table.rows:
        shown = (f"{cells.get((row, c), ''):>{len(c) + 2}}" for c in table.columns)
        lines.append(f"{row:<{wide}}" + "".join(shown))
    return "\n".join([title, *lines])


def side_by_side(before: list[Path], after: list[Path], target: Path) -> None:
    """One picture: the samples without the adapter in the upper row, with it in the lower."""
    rows = [[Image.open(path).convert("RGB") for path in row] for row in (before, after)]
    width, height = rows[0][0].size
    gap = max(width // 32, 2)
    columns = max(map(len, rows))
    size = (columns * (width + gap) + gap, 2 * (height + gap) + gap)
    sheet = Image.new("RGB", size, "white")
    for y, row in enumerate(rows):
        for x, image in enumerate(row):
            sheet.paste(image, (gap + x * (width + gap), gap + y * (height + gap)))
    sheet.save(target)
