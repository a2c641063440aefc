"""What the graph sees of a running training: small events, now and then one that tells all.

A page that was opened or loaded again in the middle of a run has missed events: the next whole one
brings everything back, so nothing has to be asked of the server. host/live_events.py repeats the
last one where steps are slow.
"""

from __future__ import annotations

import math
import time
from collections import deque
from collections.abc import Sequence
from uuid import uuid4

from ...adapter.layout import arrange
from ...adapter.lora import RankedLora
from ...training.run import Step
from .previews import Shown

INTERVAL = 0.25  # seconds between events
WHOLE = 2.0  # seconds between whole ones
POINTS = 400  # of the curves, at most
SMOOTHING = 0.12  # weight of a new loss in the running mean
WINDOW = 50  # steps over which the pace is measured
PICTURES = 60  # previews, at most


class Progress:
    """Remembers a run as far as the graph shows it; `add` after every step, `event` when due."""

    def __init__(
        self,
        node: str,
        prompt: str | None,
        workflow: str | None,
        steps: int,
        notes: Sequence[str] = (),
    ) -> None:
        self.node, self.prompt, self.workflow, self.steps = node, prompt, workflow, steps
        self.notes = list(notes)  # sentences of advice
        self.run = uuid4().hex  # tells its events from those of another run
        self.points: list[list] = []  # [step, loss, its running mean, mean rank, MB]
        self.every, self.smooth = 1, None
        self.ends = deque([time.monotonic()], WINDOW + 1)  # of the last steps
        self.began = self.ends[0]
        self.next = self.next_whole = 0.0
        self.places: dict | None = None
        self.previews: list[dict] = []
        self.last: Step | None = None
        self.ended: dict | None = None
        self.kept: str | None = None  # name among the loras of an adapter that no node takes
        self.batch_size, self.pictures = 1, 0  # 0: not known

    def add(self, step: Step) -> None:
        """Takes what a step did; the same step again replaces it."""
        if self.last is not None and self.last.index == step.index:
            self.points.pop()
        else:
            self.ends.append(time.monotonic())
            if math.isfinite(step.loss):
                before = step.loss if self.smooth is None else self.smooth
                self.smooth = before + SMOOTHING * (step.loss - before)
            if self.points and self.points[-1][0] % self.every:
                self.points.pop()  # was only there to be the newest
        self.last = step
        size = round(step.megabytes, 4)
        self.points.append(
            [step.index, number(step.loss), number(self.smooth), round(step.mean_rank, 3), size]
        )
        if len(self.points) > POINTS:
            self.every *= 2
            self.points = [p for p in self.points if not p[0] % self.every or p is self.points[-1]]

    def show(self, shown: Shown) -> None:
        """Takes a preview; the time that it took is not in the pace of the steps."""
        place = {"filename": shown.filename, "subfolder": shown.subfolder, "type": "output"}
        self.previews = [*self.previews, {"step": shown.step, **place}][-PICTURES:]
        self.ends = deque((end + shown.seconds for end in self.ends), self.ends.maxlen)

    def end(self, why: str, kept: str | None) -> None:
        """The run ended before its last step: `cancelled` or `failed`; `kept` is the name of the
        adapter so far among the loras, None where it could not be saved.
        """
        self.ended = {"why": why, "kept": kept}

    def due(self) -> bool:
        """True at most every INTERVAL seconds, and always for the first step and the last."""
        now = time.monotonic()
        if now < self.next and self.last.index < self.steps:
            return False
        self.next = now + INTERVAL
        return True

    def epochs(self, steps: int) -> float | None:
        """How often so many steps have seen every picture; None where their number isn't known."""
        return round(steps * self.batch_size / self.pictures, 3) if self.pictures else None

    def beginning(self) -> dict:
        """The event's JSON before the first step: the model is not ready yet."""
        return self.origin() | {"begun": True}

    def origin(self) -> dict:
        """Whose event it is."""
        return {
            "node": self.node,
            "prompt_id": self.prompt,
            "workflow": self.workflow,
            "run": self.run,
        }

    def event(self, *, whole: bool = False) -> dict:
        """The event's JSON: NaN and infinity, which JSON does not have, become None."""
        step, now = self.last, time.monotonic()
        _, loss, smooth, mean_rank, size = self.points[-1]
        shown = "not a number" if loss is None else f"{step.loss:.4f}"
        passed = self.ends[-1] - self.ends[0]
        pace = (len(self.ends) - 1) / passed if passed > 0 else None
        told = self.origin() | {
            "step": step.index,
            "steps": self.steps,
            "epoch": self.epochs(step.index),
            "epochs": self.epochs(self.steps),
            "loss": loss,
            "smooth": smooth,  # running mean of the loss
            "mean_rank": mean_rank,
            "mb": size,
            "ceiling": step.ceiling,  # MB
            "pace": pace,  # steps a second
            "left": (self.steps - step.index) / pace if pace else None,  # seconds
            "passed": self.ends[-1] - self.began,
            "ended": self.ended,
            "kept": self.kept,
            "ranks": list(step.ranks.values()),
            "text": f"step {step.index}/{self.steps}, loss {shown}, "
            f"mean rank {step.mean_rank:.1f}, {step.megabytes:.2f} MB",
        }
        if whole or now >= self.next_whole or step.index == self.steps:
            self.next_whole = now + WHOLE
            self.places = self.places or arrange(step.ranks).as_json()
            points = list(self.points)  # it is sent by another thread, later
            told |= {"points": points, "map": self.places, "notes": self.notes}
            told["previews"] = self.previews
        return told


def number(value: float | None) -> float | None:
    """Five digits; None for what JSON does not have."""
    return float(f"{value:.5g}") if value is not None and math.isfinite(value) else None


def count_pictures(latents: Sequence[object]) -> int:
    """Returns how many pictures a list of LATENTs holds; 0 where that can't be told."""
    samples = [batch.get("samples") if isinstance(batch, dict) else None for batch in latents]
    return sum(len(s) for s in samples) if all(getattr(s, "ndim", 0) for s in samples) else 0


def last_step(lora: RankedLora, losses: list[float], ceiling: float | None) -> Step:
    """The end of a run as a step: its last loss, and the ranks and size of the finished adapter."""
    size = lora.megabytes()
    return Step(len(losses), losses[-1], lora.ranks, lora.mean_rank, size, ceiling)
