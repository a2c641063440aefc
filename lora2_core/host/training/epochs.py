"""The length of a run in epochs: how often every picture is seen, on average."""

from __future__ import annotations

import math
from collections.abc import Mapping

from ...checks import check_range
from .choices import Choices

MOST_EPOCHS = 100_000
MOST_STEPS = 1_000_000  # as TrainSettings takes them


def choices_with_epochs(options: Mapping[str, object], epochs: int, latents: object) -> Choices:
    """Returns the choices that options make, with as many steps as see each picture that is trained
    on `epochs` times; 0: with the steps that the options say. Raises ValueError as Choices does,
    and for a run of too many steps.
    """
    check_range("epochs", epochs, 0, MOST_EPOCHS, integer=True)
    if epochs == 0:
        return Choices.of(options)
    choices = Choices.of({**options, "steps": MOST_STEPS})
    pictures = choices.validation.trained(latents)
    steps = max(1, math.ceil(epochs * pictures / choices.pictures_a_step))
    if steps > MOST_STEPS:
        raise ValueError(
            f"epochs is {epochs}, which is {steps} steps for {pictures} pictures: give fewer, at "
            f"most {MOST_STEPS} steps are made."
        )
    return Choices.of({**options, "steps": steps})
