"""Gives advice on values that are allowed and seldom meant. The node shows it before the first
step; nothing depends on it.
"""

from __future__ import annotations

from collections.abc import Iterator

from .choices import Choices
from .latents import count_pictures

# optimizers whose steps are as long as the learning rate
SCALED = ("adamw", "adam", "adamw8bit", "adafactor")
# learning rate of SCALED: weights of LoRAs are about as large, so that each step erases them
HIGH = 0.1
LOW = 1e-3  # learning rate of sgd: its steps are not scaled, and at the form's 1e-4 it hardly moves
PRODIGY = (0.1, 10.0)  # learning rates around 1: prodigy multiplies its own step size by it


def odd_values(choices: Choices, latents: object) -> Iterator[str]:
    """Yields sentences, most often none; the front end has them in other languages."""
    if choices.pictures_a_step > count_pictures(latents) > 0:
        yield (
            "batch_size is above the number of pictures: a step takes some of them more than once."
        )
    training = choices.training
    yield from of_learning_rate(training.optimizer, training.learning_rate)
    steps = training.steps
    if choices.keep.checkpoint_every > steps:
        yield "Checkpoint Options: every is above steps, so no checkpoint is written on the way."
    if choices.snapshots.adapter_every > steps:
        yield "Checkpoint Options: adapter_every is above steps, so no file is written on the way."
    if any(preview.preview_every > steps for preview in choices.previews):
        yield "Preview Options: every is above steps, so only the start and the end are drawn."


def of_learning_rate(optimizer: str, rate: float) -> Iterator[str]:
    """Yields what is odd about a learning rate; each optimizer has a measure of its own."""
    if optimizer in SCALED and rate >= HIGH:
        yield "learning_rate is very high for this optimizer, and the run may diverge: try 1e-4."
    if optimizer == "prodigy" and not PRODIGY[0] <= rate <= PRODIGY[1]:
        yield "prodigy finds the step size itself: set learning_rate to 1."
    if optimizer == "sgd" and 0 < rate < LOW:
        yield "sgd hardly learns at this learning_rate: it wants a far higher one than adamw."
