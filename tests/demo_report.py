"""What the demo shows: a line that follows the run, and a table of the learned ranks."""

from __future__ import annotations

import json
import re
import struct
import sys
from pathlib import Path

from PIL import Image

# What the terminal says while a node works; nodes that take no time are not listed.
DOING = {
    "model": "loading the model",
    "dataset": "encoding the pictures",
    "train": "training",
    "before sampler": "drawing without the adapter",
    "after sampler": "drawing with the adapter",
}
MANY_BLOCKS = 24
LAYER = re.compile(r"(?P<block>.+?)\.(?P<module>attn\d\.to_\w+(?:\.0)?|ff\..+|[^.]+)")


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


def learned_ranks(adapter: Path) -> dict[str, int]:
    """Layer name to rank, rank 0 included, from the metadata of an adapter file."""
    with open(adapter, "rb") as file:
        (length,) = struct.unpack("<Q", file.read(8))
        metadata = json.loads(file.read(length))["__metadata__"]
    return {row[1]: row[5] for row in json.loads(metadata["lora2.layers"])}


def rank_table(ranks: dict[str, int]) -> str:
    """Blocks by modules, or, for a model of many blocks, the highest and the lowest."""
    mean = sum(ranks.values()) / len(ranks)
    rows: dict[str, dict[str, int]] = {}
    for layer, rank in ranks.items():
        block, module = split(layer)
        rows.setdefault(block, {})[module] = rank
    title = f"Learned ranks: mean {mean:.1f}, from {min(ranks.values())} to {max(ranks.values())}"
    if len(rows) > MANY_BLOCKS:
        ordered = sorted(ranks, key=ranks.get, reverse=True)
        shown = [*ordered[:8], None, *ordered[-8:]]
        lines = ["…" if n is None else f"{ranks[n]:>5}  {' '.join(split(n))}" for n in shown]
        return "\n".join([title, *lines])
    modules = list(dict.fromkeys(m for row in rows.values() for m in row))
    wide = max(map(len, rows))
    lines = [" " * wide + "".join(f"{m:>{len(m) + 2}}" for m in modules)]
    for block, row in rows.items():
        cells = (f"{row.get(m, ''):>{len(m) + 2}}" for m in modules)
        lines.append(f"{block:<{wide}}" + "".join(cells))
    return "\n".join([title, *lines])


def split(layer: str) -> tuple[str, str]:
    """A layer's block and module, shortened for a table: ("input 4.1 / 0", "attn1.q")."""
    found = LAYER.fullmatch(layer.removeprefix("diffusion_model."))
    if found is None:
        return "", layer
    block = found["block"].replace(".transformer_blocks.", " / ")
    module = found["module"].replace("to_", "").removesuffix(".0")
    return re.sub(r"_blocks?\.", " ", block), module


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
