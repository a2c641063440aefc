"""Setup of each variant by itself: for models whose whole steps take too long here."""

from __future__ import annotations

from collections.abc import Callable

from tests.benchmarks.speed.probe import alone


def measure(
    name: str, repeats: int, keep: Callable[[str, dict], None], variants: list[str]
) -> None:
    for variant in variants:
        if variant != "limit":  # it has no adapters
            keep(variant, alone("setup", name, variant, str(repeats)))
