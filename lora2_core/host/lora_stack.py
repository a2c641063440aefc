"""Reads and makes a LORA_STACK, by which many node packs pass LoRAs on: a list of tuples (name in
the loras folder, strength of the model, strength of the text encoder).
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

from ..paths import quoted
from .lora_files import missing_lora
from .store import lora_path

NO_FILE = ("", "None")  # what packs write for an entry without a file
MOST_ENTRIES = 1000  # of a stack: far more than anybody chains


@dataclass(frozen=True)
class StackEntry:
    """One LoRA of a stack. name: of a file that is in a loras folder."""

    name: str
    strength_model: float = 1.0
    strength_clip: float = 1.0


def read_stack(stack: object) -> list[StackEntry]:
    """Returns the entries of a LORA_STACK that name a file; [] for None.

    ValueError in one sentence for a value of another form, a strength that is no finite number, or
    a file that is not in a loras folder.
    """
    if stack is None:
        return []
    if not isinstance(stack, (list, tuple)) or len(stack) > MOST_ENTRIES:
        raise ValueError(f"lora_stack is {quoted(stack)}: connect a node that gives a LORA_STACK.")
    entries = [entry_of(number, entry) for number, entry in enumerate(stack, 1)]
    return [entry for entry in entries if entry is not None]


def entry_of(number: int, entry: object) -> StackEntry | None:
    """Returns an entry of a stack, None for one without a file."""
    if not isinstance(entry, (list, tuple)) or len(entry) not in (2, 3):
        raise ValueError(
            f"Entry {number} of lora_stack is {quoted(entry)}: it must be a file name, a strength "
            "of the model and one of the text encoder."
        )
    name, *strengths = entry
    if name is None or name in NO_FILE:
        return None
    for strength in strengths:
        known = isinstance(strength, (int, float)) and not isinstance(strength, bool)
        if not known or not math.isfinite(strength):
            raise ValueError(
                f"Entry {number} of lora_stack has the strength {quoted(strength)}: give a number."
            )
    if not isinstance(name, str) or lora_path(name) is None:
        raise ValueError(f"Entry {number} of lora_stack: {missing_lora(name)}")
    model, clip = float(strengths[0]), float(strengths[-1])
    return StackEntry(name, model, clip)


def stack_of(entries: Iterable[StackEntry]) -> list[tuple[str, float, float]]:
    """Returns entries as a LORA_STACK."""
    return [(entry.name, entry.strength_model, entry.strength_clip) for entry in entries]
