"""Gradient accumulation: a step in several parts, whose gradients are added up, so that it needs
the memory of one part.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from torch import Tensor

from .attention import EntropyRecord
from .first_gradients import nothing_learns
from .loss_scale import LossScale


@dataclass(frozen=True)
class Part:
    """Holds a part of a step.

    loss: computes what it adds to the loss L_rec of the step, a scalar; the parts of a step add up
    to the mean over its pictures. share: of the step's pictures that it holds.
    """

    loss: Callable[[], Tensor]
    share: float


def accumulate(
    parts: Sequence[Part],
    scale: LossScale,
    refresh: Callable[[], None],
    attention: EntropyRecord | None = None,
    weight: float = 0.0,
) -> tuple[Tensor, float]:
    """Adds up the scaled gradients of all parts but the last one.

    refresh: makes the graph anew that all layers share, before each further part. attention: the
    record of the forward pass that comes next; weight: of its entropy in the loss.
    Returns the loss of the step, which has the gradients of the last part only, and that part's
    share. A step of one part is as if it had none.
    """
    *others, last = parts
    before = None
    for part in others:
        loss = part.loss()
        before = loss.detach() if before is None else before + loss.detach()
        if attention is not None:
            loss = loss + part.share * weight * attention.take()
        if not loss.requires_grad:
            raise nothing_learns()
        (loss * scale.value).backward()
        refresh()
        if attention is not None:
            attention.start()
    loss = last.loss()
    return loss if before is None else before + loss, last.share
