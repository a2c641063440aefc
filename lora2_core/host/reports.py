"""Writes the report of a training and its numbers, beside an adapter's file or in the output
folder.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from torch import Tensor

from ..adapter.history import History, write_tensorboard
from ..atomic import write_atomic
from ..charts.drawing import png
from .output import numbered_files

LOGS = "lora2/tensorboard"  # in the output folder


def pictures(images: Tensor | None) -> list[np.ndarray]:
    """Returns the pictures of an IMAGE [B, height, width, 3 or 4] in 0 to 1, each as uint8 RGB;
    ValueError for another value.
    """
    if images is None:
        return []
    if not isinstance(images, Tensor) or images.ndim != 4 or images.shape[-1] < 3:
        raise ValueError("before or after holds no IMAGE: connect VAE Decode or Load Image.")
    return list((images[..., :3].float().clamp(0, 1) * 255).round().byte().cpu().numpy())


def keep_report(page: np.ndarray, history: History, start: str | Path) -> None:
    """Writes START.report.png and START.report.csv, and START.pictures.csv where the history has
    the loss of each picture, over older files.

    start: path of the files without these endings.
    """
    write_atomic(Path(f"{start}.report.png"), png(page))
    write_atomic(Path(f"{start}.report.csv"), history.csv().encode())
    if history.pictures is not None:
        write_atomic(Path(f"{start}.pictures.csv"), history.pictures.csv().encode())


def keep_scalars(history: History, name: str) -> None:
    """Writes TensorBoard's event file of a run, into the next numbered folder of its name."""
    folder, start = numbered_files(f"{LOGS}/{name}")
    write_tensorboard(history, folder / start.rstrip("_"))
