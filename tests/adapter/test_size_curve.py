"""The curve beside the size slider says what cutting an adapter to that size really leaves."""

from dataclasses import replace

import pytest

from lora2_core.adapter.origin import Learned, Origin
from lora2_core.adapter.size_curve import STEPS, size_curve
from tests.toys import random_lora

SHAPES = {
    "a": (40, 30, 9, None),
    "b": (8, 50, 5, None),
    "c": (6, 4, 4, (3, 3)),
    "d": (5, 5, 0, None),
}


@pytest.mark.parametrize("sensitivity", [{}, {"a": 0.01, "c": 30.0}])
def test_the_curve_is_what_truncation_leaves(sensitivity: dict[str, float]):
    lora = replace(random_lora(SHAPES).rotated(), origin=Origin(Learned(sensitivity=sensitivity)))
    whole = sum(layer.norm**2 for layer in lora.layers.values())
    curve = size_curve(lora)
    for i in range(STEPS):
        cut = lora.truncated((i + 1) / STEPS)
        assert curve.mb[i] == pytest.approx(cut.megabytes(), abs=1e-4)
        assert curve.mean_rank[i] == pytest.approx(cut.mean_rank, abs=1e-3)
        energy = sum(layer.norm**2 for layer in cut.layers.values()) / whole
        assert curve.energy[i] == pytest.approx(energy, abs=1e-4)
    assert curve.energy[-1] == 1.0
    assert all(a <= b for a, b in zip(curve.energy, curve.energy[1:], strict=False))


def test_an_adapter_of_nothing_has_a_curve():
    curve = size_curve(random_lora({"d": (5, 5, 0, None)}))
    assert curve.mb == [0.0] * STEPS and curve.mean_rank == [0.0] * STEPS
