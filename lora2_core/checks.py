"""Checks of single values: one sentence for each fault, with the value and the remedy."""

from __future__ import annotations

from .paths import quoted


def check_range(name: str, value: float, low: float, high: float, *, integer: bool = False) -> None:
    """Raises ValueError unless value is a number from low to high, and an int if `integer`."""
    number = isinstance(value, int if integer else (int, float)) and not isinstance(value, bool)
    if not number or not low <= value <= high:
        kind = "whole number" if integer else "number"
        raise ValueError(f"{name} is {quoted(value)}: give a {kind} from {low:g} to {high:g}.")


def check_choice(name: str, value: str, choices: tuple[str, ...]) -> None:
    """Raises ValueError unless value is one of the choices."""
    if not isinstance(value, str) or value not in choices:
        raise ValueError(f"{name} is {quoted(value)}: choose {', '.join(choices)}.")


def check_switch(name: str, value: bool) -> None:
    """Raises ValueError unless value is a bool."""
    if not isinstance(value, bool):
        raise ValueError(f"{name} is {quoted(value)}: give True or False.")


def check_text(name: str, value: str) -> None:
    """Raises ValueError unless value is a str."""
    if not isinstance(value, str):
        raise ValueError(f"{name} is {quoted(value)}: give a text.")
