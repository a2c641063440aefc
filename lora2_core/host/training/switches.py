"""Switches of the host and of torch that are set while a model is on loan, and put back after."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import comfy.model_management
import torch

# where, which, and its value in training. Older hosts and torches lack some
TRAINING = (
    # the host's fused rope and norms have no gradients
    (comfy.model_management, "in_training", True),
    # the backward pass of quantised layers stays exact, also after another trainer that died
    (comfy.model_management, "training_fp8_bwd", False),
    # weights that lie in RAM come in the order of the computation, or as ahead.py fetches them: on
    # the host's side streams, their copies may go into memory that is still read
    (comfy.model_management, "NUM_STREAMS", 0),
    # `--fast fp16_accumulation`: sums of gradients overflow and lose what is small
    (torch.backends.cuda.matmul, "allow_fp16_accumulation", False),
)


@contextmanager
def set_for_training() -> Iterator[None]:
    """Sets the switches inside; afterwards each has the value that it had."""
    before = [
        (where, name, getattr(where, name)) for where, name, _ in TRAINING if hasattr(where, name)
    ]
    try:
        for where, name, value in TRAINING:
            if hasattr(where, name):
                setattr(where, name, value)
        yield
    finally:
        for where, name, value in before:
            setattr(where, name, value)
