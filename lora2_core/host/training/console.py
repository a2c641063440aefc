"""Shows the progress of a run in the terminal: one line that is written over, as the host's
samplers have it, and one in the log at the end.
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

# weight of a new loss in the running mean, as in the graph: a mean over about 16 steps
SMOOTHING = 0.12


class Terminal:
    """Writes to standard error and lets its failures vanish: tqdm would keep the lock that all its
    bars share.
    """

    encoding = "ascii"

    def write(self, text: str) -> None:
        """Writes what can be written."""
        with contextlib.suppress(Exception):
            sys.stderr.write(writable(text))

    def flush(self) -> None:
        """Flushes what can be flushed."""
        with contextlib.suppress(Exception):
            sys.stderr.flush()

    def fileno(self) -> int:
        """Returns the descriptor, which tells tqdm how wide the terminal is."""
        return sys.stderr.fileno()


class Console:
    """Shows a run: `with Console(steps) as console:`. Its speed is that of training alone, without
    previews.
    """

    def __init__(self, steps: int):
        self.steps, self.bar, self.last = steps, None, None
        self.loss: float | None = None
        self.began = time.monotonic()  # seconds
        self.paused: dict[str, float] = {}  # what else was done -> seconds

    def __enter__(self) -> Console:
        return self

    def __exit__(self, *_) -> None:
        if self.bar is not None:
            OnlySaid()(self.end)

    def end(self) -> None:
        """Closes the line of progress, and writes the line that stays."""
        self.bar.close()
        seconds = time.monotonic() - self.began
        others = ", ".join(f"{each:.1f} s of them for {what}" for what, each in self.paused.items())
        others = others and f" ({others})"
        log.info(
            "LoRA2 Train: step %d of %d after %.1f s%s, %s.",
            self.last.index, self.steps, seconds, others, self.text_of(self.last),
        )  # fmt: skip

    def step(self, step: Step) -> None:
        """Shows that a step was made."""
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
        self.bar.set_postfix_str(self.text_of(step), refresh=False)
        self.bar.update()

    def text_of(self, step: Step) -> str:
        """Returns the running mean of the loss, the mean rank and the size after a step."""
        loss = "not a number" if self.loss is None else f"{self.loss:.4f}"
        return f"loss {loss}, mean rank {step.mean_rank:.1f}, {step.megabytes:.2f} MB"

    def pause(self, seconds: float, what: str = "previews") -> None:
        """Takes so many seconds, in which something else was done, out of the speed."""
        self.paused[what] = self.paused.get(what, 0.0) + seconds
        if self.bar is not None and not self.bar.disable:
            self.bar.start_t += seconds
            self.bar.last_print_t += seconds
