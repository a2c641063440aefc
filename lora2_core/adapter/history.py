"""The history of a training: its loss and mean rank over the steps, as numbers and as files."""

from __future__ import annotations

import csv
import io
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

from .held_out import HeldOut, PictureLosses
from .lora import RankedLora
from .series import numbers, running_mean

SMOOTHING = 0.12  # weight of a new loss in the running mean, as in the graph and the terminal
MOST_STEPS = 10_000_000  # that a file may state: far above any run
NO_TENSORBOARD = (
    "tensorboard needs the package tensorboard, which is not installed: install it with "
    "`python -m pip install tensorboard`, or turn it off."
)


@dataclass(frozen=True)
class History:
    """The loss L_rec of a step, and the mean rank after it, for the rising steps 1, 2, ...

    An adapter that was loaded has at most 200 steps, evenly spread, with the first and the last.
    held_out, pictures: the losses on pictures that were held out, and of each picture; None where
    the run did not compute them.
    """

    steps: list[int]
    losses: list[float]
    mean_ranks: list[float]
    held_out: HeldOut | None = None
    pictures: PictureLosses | None = None

    @classmethod
    def of(cls, lora: RankedLora) -> History:
        """Returns the history of an adapter; ValueError where it has none."""
        series = lora.origin.run.history
        losses, ranks = numbers(series.get("loss")), numbers(series.get("mean_rank"))
        if not losses or len(losses) != len(ranks):
            raise ValueError(
                "This adapter tells nothing of its training: connect one from LoRA2 Train, or load "
                "a file that it made."
            )
        steps = lora.origin.run.steps
        stated = lora.origin.file.metadata.get("ss_steps") if steps is None else steps
        count = max(step_count(stated), len(losses))
        gap = (count - 1) / max(1, len(losses) - 1)
        found = [1 + round(i * gap) for i in range(len(losses))]
        pictures = PictureLosses.of(series, lora.origin.run.pictures)
        return cls(found, losses, ranks, HeldOut.of(series), pictures)

    def smooth(self) -> list[float]:
        """Returns the running mean of the losses."""
        return running_mean(self.losses, SMOOTHING)

    def csv(self) -> str:
        """Returns the text of a CSV file: step, loss, mean_rank, a line a step; with a held-out
        loss also validation_loss, at the steps that have one.
        """
        rows = zip(self.steps, self.losses, self.mean_ranks, strict=True)
        lines: dict[int, list] = {s: [s, f"{loss:.6g}", f"{rank:.6g}"] for s, loss, rank in rows}
        header = ["step", "loss", "mean_rank"]
        if self.held_out is not None:
            header.append("validation_loss")
            for step, loss in zip(self.held_out.steps, self.held_out.losses, strict=True):
                lines.setdefault(step, [step, "", ""]).append(f"{loss:.6g}")
        text = io.StringIO()
        table = csv.writer(text, lineterminator="\n")
        table.writerow(header)
        for step in sorted(lines):
            table.writerow(lines[step] + [""] * (len(header) - len(lines[step])))
        return text.getvalue()


def step_count(value: object) -> int:
    """Returns a value as a count of steps, at most MOST_STEPS; 0 where it is none."""
    text = str(value)
    return min(int(text), MOST_STEPS) if text.isascii() and text.isdigit() and len(text) < 9 else 0


def check_tensorboard() -> None:
    """Raises ValueError unless event files can be written."""
    if find_spec("tensorboard") is None:
        raise ValueError(NO_TENSORBOARD)


def write_tensorboard(history: History, folder: Path) -> None:
    """Writes an event file of TensorBoard with the scalars loss, loss_mean and mean_rank."""
    check_tensorboard()
    from torch.utils.tensorboard import SummaryWriter

    with SummaryWriter(str(folder)) as writer:
        rows = (history.steps, history.losses, history.smooth(), history.mean_ranks)
        for step, loss, mean, rank in zip(*rows, strict=True):
            writer.add_scalar("loss", loss, step)
            writer.add_scalar("loss_mean", mean, step)
            writer.add_scalar("mean_rank", rank, step)
        if (held := history.held_out) is not None:
            for step, loss in zip(held.steps, held.losses, strict=True):
                writer.add_scalar("validation_loss", loss, step)
