"""Peak memory, adapter parameters and setup of each variant, in a process of its own."""

from __future__ import annotations

from collections.abc import Callable

from tests.benchmarks.speed.probe import alone


def measure(
    name: str, _repeats: int, keep: Callable[[str, dict], None], variants: list[str]
) -> None:
    for variant in variants:
        keep(variant, alone("train", name, variant))
