"""Checks of single values: one sentence for each fault, with the value and the remedy."""

from __future__ import annotations

from .paths import quoted

DECAY = 0.5  # of the run: the learning rate falls to zero over its last half


def check_range(name: str, value: float, low: float, high: float, *, whole: bool = False) -> None:
    """Raises ValueError unless value is a number (an int where `whole`) and low <= value <=
    high.
    """
    number = isinstance(value, int if whole else (int, float)) and not isinstance(value, bool)
    if not number or not low <= value <= high:
        kind = "whole number" if whole else "number"
        raise ValueError(f"{name} is {quoted(value)}: give a {kind} from {low:g} to {high:g}.")


def check_choice(name: str, value: str, choices: tuple[str, ...]) -> None:
    """Raises ValueError unless value is one of the choices."""
    if not isinstance(value, str) or value not in choices:
        raise ValueError(f"{name} is {quoted(value)}: choose {', '.join(choices)}.")


def check_text(name: str, value: str) -> None:
    """Raises ValueError unless value is a text."""
    if not isinstance(value, str):
        raise ValueError(f"{name} is {quoted(value)}: give a text.")
