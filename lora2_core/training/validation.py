"""When the held-out loss of a run is computed, so that it costs little."""

from __future__ import annotations

import math
from collections.abc import Sequence

from ..adapter.held_out import LEVELS

SHARE = 0.02  # of a run's time that its held-out loss takes at most, unless somebody chose more
# forward passes without gradients that a picture of a training step takes as long as. Measured:
# 2.6 on the playground, more with gradient checkpointing
PASSES = 2.5
FEWEST, MOST = 5, 40  # losses of a run: more than FEWEST tell where it turns, MOST fill a chart
PICTURE_TIMES = 5  # losses of each picture: before the run, after each quarter of it
PICTURES = 200  # whose losses are kept: as many numbers as a file has of a series


def schedule(steps: int, pictures_a_step: int, held_out: int) -> tuple[int, int]:
    """Returns (every, used): the steps from one held-out loss to the next, and how many of the
    held-out pictures are used, so that all losses of a run cost SHARE of it. The first is computed
    before the first step, the last after the last one; a run that is too short for two of them has
    two.
    """
    passes = SHARE * steps * pictures_a_step * PASSES
    used = min(held_out, max(1, int(passes / FEWEST / LEVELS)))
    times = min(MOST, max(2, int(passes / LEVELS / used)))
    return math.ceil(steps / (times - 1)), used


def picture_steps(steps: int) -> list[int]:
    """Returns the steps after which the loss of every picture is computed."""
    return sorted({round(i * steps / (PICTURE_TIMES - 1)) for i in range(PICTURE_TIMES)})


def spread(count: int, wanted: int) -> list[int]:
    """Returns `wanted` of the numbers 0, 1, ..., count - 1, evenly spread; all where there are
    fewer.
    """
    wanted = min(count, wanted)
    return [(2 * i + 1) * count // (2 * wanted) for i in range(wanted)]


def held_out_names(names: Sequence[str], split: float) -> list[str]:
    """Returns the pictures that a share of them holds out: evenly spread, and the same whatever the
    seed of the run. `names` may hold a picture more than once. Raises ValueError where none would
    be left to train on.
    """
    different = list(dict.fromkeys(names))
    wanted = max(1, round(split * len(different)))
    if wanted >= len(different):
        raise ValueError(
            f"split {split:g} of {len(different)} different pictures leaves none to train on: give "
            "more pictures, or connect latents and positive to LoRA2 Validation Options."
        )
    return [different[i] for i in spread(len(different), wanted)]
