"""Makes the events by which the graph sees a running training: small ones, and now and then a full
one.

A page that was opened or loaded again in the middle of a run has missed events. The next full event
holds everything, so that no page has to ask the server. host/live_events.py sends the last full
event again where steps are slow.
"""

from __future__ import annotations

import math
import time
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from uuid import uuid4

from ...adapter.layout import arrange
from ...adapter.lora import RankedLora
from ...training.run import Step
from .held_out import Validated
from .previews import Drawn

# kinds of events: a state of the run, after its first step; that a run has begun
EVENT, BEGUN = "lora2.train", "lora2.train_begun"
INTERVAL = 0.25  # seconds between two events: a browser draws each of them
FULL_INTERVAL = 2.0  # seconds between two full events: how long a page that was opened waits
POINTS = 400  # of the curves at most, about as many as a node is pixels wide
SMOOTHING = 0.12  # weight of a new loss in the running mean: a mean over about 16 steps
WINDOW = 50  # steps over which the pace is measured
PICTURES = 60  # previews at most: a full event stays small


@dataclass(frozen=True)
class Origin:
    """Says whose events they are, by the host's ids: node ids repeat in other workflows."""

    node: str = ""
    prompt: str | None = None
    workflow: str | None = None


class Progress:
    """Remembers a run as far as the graph shows it: `add` after every step, `event` when due."""

    def __init__(self, origin: Origin, steps: int, notes: Sequence[str] = ()) -> None:
        self.origin, self.steps = origin, steps
        # sentences of advice; lists hold what stands for {0} and so on in the first entry
        self.notes: list[str | list[str]] = list(notes)
        self.run = uuid4().hex  # tells its events from those of another run
        self.points: list[list] = []  # [step, loss, its running mean, mean rank, MB]
        self.every, self.smooth = 1, None
        self.ends = deque([time.monotonic()], WINDOW + 1)  # of the last steps
        self.began = self.ends[0]
        self.next = self.next_full = 0.0  # seconds, when an event is due
        self.layout: dict | None = None  # of the map of ranks
        self.previews: list[dict] = []
        self.last: Step | None = None
        self.ended: dict | None = None
        self.kept: str | None = None  # the file of an adapter that no other node takes
        self.batch_size, self.pictures = 1, 0  # 0: not known
        self.validation: list[list] = []  # [step, held-out loss]
        self.best: int | None = None  # the step where it is best

    def add(self, step: Step) -> None:
        """Adds what a step did; the same step again replaces it."""
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

    def show(self, drawn: Drawn) -> None:
        """Adds a preview. The time that it took is not in the pace of the steps."""
        file = {"filename": drawn.filename, "subfolder": drawn.subfolder, "type": "output"}
        self.previews = [*self.previews, {"step": drawn.step, **file}][-PICTURES:]
        self.ends = deque((end + drawn.seconds for end in self.ends), self.ends.maxlen)

    def validate(self, validated: Validated) -> None:
        """Takes the held-out losses, also those before a run was taken up. The time that they took
        is not in the pace of the steps.
        """
        losses = validated.losses[:: 1 + len(validated.losses) // POINTS]
        self.validation = [[step, number(loss)] for step, loss in losses]
        self.best = validated.best
        self.ends = deque((end + validated.seconds for end in self.ends), self.ends.maxlen)

    def end(self, why: str, kept: str | None) -> None:
        """Adds that the run ended before its last step: `why` is `cancelled` or `failed`, `kept`
        the file of the adapter so far, None where it could not be saved.
        """
        self.ended = {"why": why, "kept": kept}

    def due(self) -> bool:
        """Returns whether an event is due: at most every INTERVAL seconds, and always after the
        first step and the last.
        """
        now = time.monotonic()
        if now < self.next and self.last.index < self.steps:
            return False
        self.next = now + INTERVAL
        return True

    def epochs(self, steps: int) -> float | None:
        """Returns how often so many steps have seen every picture, None where nobody knows how many
        pictures there are.
        """
        return round(steps * self.batch_size / self.pictures, 3) if self.pictures else None

    def ids(self) -> dict:
        """Returns whose event it is, as JSON: all that is known before the first step."""
        return {
            "node": self.origin.node,
            "prompt_id": self.origin.prompt,
            "workflow": self.origin.workflow,
            "run": self.run,
        }

    def event(self, *, full: bool = False) -> dict:
        """Returns the event's JSON. NaN and infinity, which JSON does not have, become None."""
        step, now = self.last, time.monotonic()
        _, loss, smooth, mean_rank, size = self.points[-1]
        shown = "not a number" if loss is None else f"{step.loss:.4f}"
        passed = self.ends[-1] - self.ends[0]
        pace = (len(self.ends) - 1) / passed if passed > 0 else None
        event = self.ids() | {
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
        if full or now >= self.next_full or step.index == self.steps:
            self.next_full = now + FULL_INTERVAL
            self.layout = self.layout or arrange(step.ranks).as_json()
            points = list(self.points)  # another thread sends them, later
            event |= {"points": points, "map": self.layout, "notes": self.notes}
            event["previews"] = self.previews
            event |= {"validation": self.validation, "best": self.best}
        return event


def number(value: float | None) -> float | None:
    """Returns a value with five digits, None for what JSON does not have."""
    return float(f"{value:.5g}") if value is not None and math.isfinite(value) else None


def last_step(lora: RankedLora, losses: list[float], ceiling: float | None) -> Step:
    """Returns the end of a run as a step: its last loss, and the ranks and size of the finished
    adapter.
    """
    size = lora.megabytes()
    return Step(len(losses), losses[-1], lora.ranks, lora.mean_rank, size, ceiling)
