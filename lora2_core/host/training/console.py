"""The progress of a run in the terminal: one line that is written over, as the host's samplers have
it, and one in the log at the end.
"""

from __future__ import annotations

import contextlib
import math
import sys
import time

import comfy.utils
from tqdm.auto import tqdm

from ...saying import log, writable
from ...training.run import Step
from ..only_said import OnlySaid

SMOOTHING = 0.12  # weight of a new loss in the running mean, as in the graph


class Terminal:
    """Standard error, whose failures vanish: tqdm would keep the lock that all its bars share."""

    encoding = "ascii"

    def write(self, text: str) -> None:
        """Writes what can be written."""
        with contextlib.suppress(Exception):
            sys.stderr.write(writable(text))

    def flush(self) -> None:
        """Flushes where that is possible."""
        with contextlib.suppress(Exception):
            sys.stderr.flush()

    def fileno(self) -> int:
        """Returns the descriptor, by which the width of the terminal is found."""
        return sys.stderr.fileno()


class Console:
    """`with Console(steps) as console:` around a run; what isn't training is not in its speed."""

    def __init__(self, steps: int):
        self.steps, self.bar, self.last = steps, None, None
        self.loss: float | None = None
        self.began, self.apart = time.monotonic(), 0.0  # seconds

    def __enter__(self) -> Console:
        return self

    def __exit__(self, *_) -> None:
        if self.bar is not None:
            OnlySaid()(self.end)

    def end(self) -> None:
        """Closes the line and writes the one that stays."""
        self.bar.close()
        seconds = time.monotonic() - self.began
        previews = f" ({self.apart:.1f} s of them for previews)" if self.apart else ""
        log.info(
            "LoRA2 Train: step %d of %d after %.1f s%s, %s.",
            self.last.index, self.steps, seconds, previews, self.said(self.last),
        )  # fmt: skip

    def step(self, step: Step) -> None:
        """A step was made."""
        if self.bar is None:
            self.bar = tqdm(
                desc="LoRA2 Train", total=self.steps, initial=step.index - 1,
                file=Terminal(), dynamic_ncols=True,
                disable=not comfy.utils.PROGRESS_BAR_ENABLED,
            )  # fmt: skip
        if math.isfinite(step.loss):
            mean = step.loss if self.loss is None else self.loss
            self.loss = mean + SMOOTHING * (step.loss - mean)
        self.last = step
        self.bar.set_postfix_str(self.said(step), refresh=False)
        self.bar.update()

    def said(self, step: Step) -> str:
        loss = "not a number" if self.loss is None else f"{self.loss:.4f}"
        return f"loss {loss}, mean rank {step.mean_rank:.1f}, {step.megabytes:.2f} MB"

    def pause(self, seconds: float) -> None:
        """So long something else was done."""
        self.apart += seconds
        if self.bar is not None and not self.bar.disable:
            self.bar.start_t += seconds
            self.bar.last_print_t += seconds
