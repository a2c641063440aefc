"""Where a report and what it is made of are kept: beside an adapter's file, or in the output
folder.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from torch import Tensor

from ..adapter.history import History, write_tensorboard
from ..atomic import write_atomic
from ..charts.drawing import png
from .output import place_of

LOGS = "lora2/tensorboard"  # in the output folder


def pictures(images: Tensor | None) -> list[np.ndarray]:
    """Of an IMAGE [B, height, width, 3 or 4] of 0 to 1: uint8 RGB each."""
    if images is None:
        return []
    if not isinstance(images, Tensor) or images.ndim != 4 or images.shape[-1] < 3:
        raise ValueError("before or after holds no IMAGE: connect VAE Decode or Load Image.")
    return list((images[..., :3].float().clamp(0, 1) * 255).round().byte().cpu().numpy())


def keep_report(page: np.ndarray, history: History, start: str | Path) -> None:
    """Writes START.report.png and START.report.csv, over older ones."""
    write_atomic(Path(f"{start}.report.png"), png(page))
    write_atomic(Path(f"{start}.report.csv"), history.csv().encode())


def keep_scalars(history: History, name: str) -> None:
    """Writes TensorBoard's event file of a run, into a folder of the next number."""
    folder, start = place_of(f"{LOGS}/{name}")
    write_tensorboard(history, folder / start.rstrip("_"))
