"""The scale of weights in 8 bits. float8_e4m3fn holds values from 2^-9 to 448, in steps of an
eighth of a power of two; those of a LoRA are often smaller. The file's alpha carries the rest.
"""

from __future__ import annotations

import math
from collections.abc import Iterable

import torch

FP8 = torch.float8_e4m3fn
LARGEST = 256.0  # of a weight in a file, with room for a sum of two of them


def alpha_for(largest: Iterable[tuple[int, float]]) -> float:
    """Returns the alpha, a power of two, at which no weight is above LARGEST and the largest one is
    near to it.

    largest: for each layer its rank and the largest magnitude in lora_up and lora_down, where
        lora_up @ lora_down is the update. Both are multiplied by sqrt(rank / alpha).
    """
    squares = [rank * value**2 for rank, value in largest if rank and 0 < value < math.inf]
    return 2.0 ** math.ceil(math.log2(max(squares) / LARGEST**2)) if squares else 1.0
