"""Advice on values that are allowed and seldom meant; it is shown in the node before the first
step, nothing depends on it.
"""

from __future__ import annotations

from collections.abc import Iterator

from .run import HostRun

HIGH = 0.1  # of a learning rate: weights of LoRAs are about as large, so that each step erases them
LOW = 1e-3  # below it sgd, whose steps are not scaled, hardly moves; its default would be 1e-4
OWN_STEP = (0.1, 10.0)  # prodigy multiplies the step that it finds by the learning rate
SCALED = ("adamw", "adam", "adamw8bit", "adafactor")  # their steps are as long as the learning rate


def odd_values(run: HostRun, latents: object) -> Iterator[str]:
    """Yields sentences, most often none; the front end has them in other languages."""
    if run.batch_size > pictures(latents) > 0:
        yield (
            "batch_size is above the number of pictures: a step takes some of them more than once."
        )
    yield from of_learning_rate(run.training.optimizer, run.training.learning_rate)
    steps = run.training.steps
    if run.keep.checkpoint_every > steps:
        yield "Checkpoint Options: every is above steps, so no checkpoint is written on the way."
    if run.snapshots.adapter_every > steps:
        yield "Checkpoint Options: adapter_every is above steps, so no file is written on the way."
    if any(preview.preview_every > steps for preview in run.previews):
        yield "Preview Options: every is above steps, so only the start and the end are drawn."


def of_learning_rate(optimizer: str, rate: float) -> Iterator[str]:
    """Yields what is odd about a learning rate; each optimizer has a measure of its own."""
    if optimizer in SCALED and rate >= HIGH:
        yield "learning_rate is very high for this optimizer, and the run may diverge: try 1e-4."
    if optimizer == "prodigy" and not OWN_STEP[0] <= rate <= OWN_STEP[1]:
        yield "prodigy finds the step size itself: set learning_rate to 1."
    if optimizer == "sgd" and 0 < rate < LOW:
        yield "sgd hardly learns at this learning_rate: it wants a far higher one than adamw."


def pictures(latents: object) -> int:
    """Counts the pictures of a list of LATENTs; 0 where the run will refuse it."""
    batches = latents if isinstance(latents, list) else [latents]
    try:
        return sum(len(batch["samples"]) for batch in batches)
    except (KeyError, TypeError):
        return 0
