"""What the graph sees of a running training: one small event, at most four a second."""

from __future__ import annotations

import math
import time

from ..lora import RankedLora
from ..training import Step
from .previews import Shown

INTERVAL = 0.25  # seconds


class Throttle:
    """True at most every INTERVAL seconds, and always for the first and the last."""

    def __init__(self) -> None:
        self.next = 0.0

    def due(self, *, last: bool = False) -> bool:
        now = time.monotonic()
        if now < self.next and not last:
            return False
        self.next = now + INTERVAL
        return True


def event(node: str, prompt: str, step: Step, steps: int) -> dict:
    """The JSON of a step, by execution and prompt id: NaN and infinity, which JSON does not have,
    become None.
    """
    loss = step.loss if math.isfinite(step.loss) else None
    shown = "not a number" if loss is None else f"{loss:.4f}"
    size = f"mean rank {step.mean_rank:.1f}, {step.megabytes:.2f} MB"
    return {
        "node": node,
        "prompt_id": prompt,
        "step": step.index,
        "steps": steps,
        "loss": loss,
        "mean_rank": step.mean_rank,
        "mb": step.megabytes,
        "ranks": step.ranks,
        "text": f"step {step.index}/{steps}, loss {shown}, {size}",
    }


def preview_event(node: str, prompt: str, shown: Shown, steps: int) -> dict:
    """The JSON of a preview: where the page finds the picture."""
    return {
        "node": node,
        "prompt_id": prompt,
        "step": shown.step,
        "steps": steps,
        "seconds": round(shown.seconds, 3),
        "image": {"filename": shown.filename, "subfolder": shown.subfolder, "type": "output"},
    }


def last_step(lora: RankedLora, losses: list[float]) -> Step:
    """The end of a run as a step: its last loss, and the ranks and size of the finished adapter."""
    return Step(len(losses), losses[-1], lora.ranks, lora.mean_rank, lora.megabytes())
