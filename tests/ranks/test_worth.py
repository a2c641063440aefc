"""Worth: the auction takes the best prefix of every layer, and only what is noise goes unasked."""

from __future__ import annotations

import itertools

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from lora2_core.adapter.allocation import descending, share_out
from lora2_core.ranks.worth import (
    CLIFF,
    ENERGY,
    NOISE,
    above_noise,
    mean_worth,
    position_worth,
    tempered,
)

WORTH = st.floats(0, 1e4, width=32)
LAYERS = st.lists(st.lists(WORTH, max_size=5), min_size=1, max_size=4)
COSTS = st.lists(st.integers(1, 9), min_size=4, max_size=4)


def tensors(layers: list[list[float]]) -> list[Tensor]:
    return [torch.tensor(worths, dtype=torch.float64) for worths in layers]


def falling(layers: list[list[float]]) -> list[Tensor]:
    return tensors([sorted(worths, reverse=True) for worths in layers])


def value(worths: list[Tensor], ranks: list[int]) -> float:
    return sum(float(w[:r].sum()) for w, r in zip(worths, ranks, strict=True))


def size(costs: list[int], ranks: list[int]) -> int:
    return sum(c * r for c, r in zip(costs, ranks, strict=True))


def greedy(
    worths: list[Tensor], costs: list[int], parameters: float, *, fill: bool = False
) -> list[int]:
    """One position after the other, the most worth a parameter first, until one is too much; with
    `fill`, until each is.
    """
    ranks, used, full = [0] * len(worths), 0, set()
    while True:
        offers = [
            (float(w[r:].max()) / c, -i)
            for i, (w, r, c) in enumerate(zip(worths, ranks, costs, strict=True))
            if r < len(w) and i not in full
        ]
        if not offers:
            return ranks
        layer = -max(offers)[1]
        if used + costs[layer] <= parameters:
            ranks[layer] += 1
            used += costs[layer]
        elif fill:
            full.add(layer)
        else:
            return ranks


@given(layers=LAYERS, costs=COSTS, parameters=st.floats(0, 200))
@settings(max_examples=200)
def test_the_auction_is_the_greedy_one(layers, costs, parameters):
    worths = tensors(layers)
    costs = costs[: len(worths)]
    ranks = share_out(worths, costs, parameters)
    assert size(costs, ranks) <= parameters
    assert ranks == greedy(worths, costs, parameters)


@given(layers=LAYERS, costs=COSTS, share=st.floats(0, 1))
@settings(max_examples=100)
def test_no_ranks_of_its_size_are_worth_more(layers, costs, share):
    """Against every choice of ranks; worths fall along a layer, as they do in its own basis."""
    worths = falling(layers)
    costs = costs[: len(worths)]
    ranks = share_out(worths, costs, share * size(costs, [len(w) for w in worths]))
    used = size(costs, ranks)
    choices = itertools.product(*(range(len(w) + 1) for w in worths))
    best = max(value(worths, c) for c in choices if size(costs, c) <= used)
    assert value(worths, ranks) == pytest.approx(best, rel=1e-9, abs=1e-12)


@given(layers=LAYERS, costs=COSTS, sizes=st.tuples(st.floats(0, 200), st.floats(0, 200)))
@settings(max_examples=100)
def test_more_room_never_lowers_a_rank(layers, costs, sizes):
    worths = tensors(layers)
    costs = costs[: len(worths)]
    small, large = (share_out(worths, costs, s) for s in sorted(sizes))
    assert all(a <= b for a, b in zip(small, large, strict=True))


@given(layers=LAYERS, costs=COSTS, share=st.floats(0, 1))
@settings(max_examples=100)
def test_a_position_taken_is_worth_a_prefix(layers, costs, share):
    """Where a layer ends, nothing behind it would have been taken before what was."""
    worths = [descending(w) for w in tensors(layers)]
    costs = costs[: len(worths)]
    ranks = share_out(worths, costs, share * size(costs, [len(w) for w in worths]))
    lots = list(zip(worths, ranks, costs, strict=True))
    taken = [float(w[r - 1]) / c for w, r, c in lots if r]
    left = [float(w[r]) / c for w, r, c in lots if r < len(w)]
    assert not taken or not left or min(taken) >= max(left) * (1 - 1e-12)


def test_room_for_everything_and_for_nothing():
    worths = falling([[3, 1], [], [2, 2, 0]])
    assert share_out(worths, [4, 5, 6], 26) == [2, 0, 3]
    assert share_out(worths, [4, 5, 6], 3.9) == [0, 0, 0]
    assert share_out(worths[1:2], [5], 100) == [0]


@given(worths=st.lists(WORTH, max_size=8))
def test_a_position_counts_as_much_as_the_best_behind_it(worths: list[float]):
    found = descending(tensors([worths])[0]).tolist()
    assert found == [max(worths[i:]) for i in range(len(worths))]


def test_position_worth_is_the_diagonal_second_order_term():
    """With curvature E[g^2] of the mean of squared gradients seen, summed over a position."""
    generator = torch.Generator().manual_seed(0)
    up, moment = torch.randn(7, 3, generator=generator), torch.rand(7, 3, generator=generator)
    expected = [sum(float(up[o, i] ** 2 * moment[o, i]) for o in range(7)) for i in range(3)]
    assert position_worth(up, moment).tolist() == pytest.approx(expected, rel=1e-5)
    assert position_worth(torch.zeros(7, 0), torch.zeros(7, 0)).shape == (0,)


def test_a_direction_without_energy_is_worth_nothing():
    """However large its mean square: a share of the worth needs a share of the update."""
    up, moment = torch.ones(4, 3), torch.ones(4, 3)
    up[:, 2], moment[:, 2] = 1e-4, 1e9
    worth = position_worth(up, moment)
    total = float(moment[:, 2].sum() * 1e-8) + 8
    assert worth.tolist() == pytest.approx([4, 4, ENERGY * 1e-8 / 2 * total], rel=1e-4)


@given(layers=LAYERS, costs=COSTS, parameters=st.floats(0, 200))
@settings(max_examples=200)
def test_a_size_is_filled(layers, costs, parameters):
    worths = tensors(layers)
    costs = costs[: len(worths)]
    ranks = share_out(worths, costs, parameters, fill=True)
    assert ranks == greedy(worths, costs, parameters, fill=True)
    room = parameters - size(costs, ranks)
    lots = zip(worths, costs, ranks, strict=True)
    assert room >= 0 and not any(len(w) > r and c <= room for w, c, r in lots)


@given(worths=st.lists(st.floats(1e-3, 1e3), min_size=1, max_size=6), factor=st.floats(1e-3, 1e3))
def test_tempering_keeps_the_order_within_and_narrows_that_between_layers(worths, factor):
    worth = torch.tensor(worths, dtype=torch.float64)
    found = tempered(worth)
    torch.testing.assert_close(found / found.sum(), worth / worth.sum())
    assert float(found.sum()) == pytest.approx(float(worth.sum()) ** 0.5)
    torch.testing.assert_close(tempered(factor * worth), factor**0.5 * found)


@pytest.mark.parametrize("length", [0, 3])
def test_tempering_nothing_gives_nothing(length: int):
    assert torch.equal(tempered(torch.zeros(length)), torch.zeros(length))


def test_the_mean_worth_is_that_of_useful_positions():
    signal = tensors([[4.0] * 6, [4.0] * 2])
    assert mean_worth(signal) == pytest.approx(4)
    noisy = [torch.cat([w, torch.full((100,), 0.004, dtype=w.dtype)]) for w in signal]
    assert mean_worth(noisy) == pytest.approx(4, rel=0.03)
    assert mean_worth(tensors([[0.0, 0.0], []])) == 0


def test_noise_behind_a_cliff_goes():
    noise = [0.09 / CLIFF, 0.08 / CLIFF, 0.07 / CLIFF]
    layers = tensors([[5.0, 4.0, 3.0, *noise], [1.0, *noise], [4.0, 4.0]])
    assert above_noise(layers) == [3, 1, 2]


def test_a_cliff_to_what_is_still_worth_something_takes_nothing():
    """NOISE of the mean position's worth lies between the two tails."""
    above, below, first = 4.0 * NOISE * 1.1, 4.0 * NOISE * 0.5, 4.0 * NOISE * CLIFF
    others = [4.0] * 9999
    assert above_noise(tensors([[first, *[above] * 3], others]))[0] == 4
    assert above_noise(tensors([[first, *[below] * 3], others]))[0] == 1


@given(
    layers=st.lists(st.tuples(st.floats(1, 100), st.integers(1, 30)), min_size=1, max_size=4),
    fall=st.floats(1.0, CLIFF / 2),
)
def test_gentle_spectra_are_left_whole(layers: list[tuple[float, int]], fall: float):
    """However little its end is worth, a spectrum without a cliff is not noise."""
    worths = [first * fall ** -torch.arange(n, dtype=torch.float64) for first, n in layers]
    assert above_noise(worths) == [n for _, n in layers]


def test_a_layer_far_below_a_typical_position_goes_whole():
    """Noise alone has no cliff inside: the limit itself counts as the position before."""
    limit = 4.0 * NOISE / CLIFF
    kept, gone = [limit * 1.1] * 3, [limit * 0.9] * 3
    assert above_noise(tensors([[4.0] * 9, kept, gone])) == [9, 3, 0]


def test_what_falls_on_behind_a_cliff_is_signal():
    """Two positions of a steep spectrum with noise behind them, and one with noise alone."""
    steep, noise, others = [1.0, 0.5 / CLIFF], [1e-5] * 8, [4.0] * 9
    assert above_noise(tensors([[*steep, *noise], others])) == [2, 9]
    assert above_noise(tensors([[1.0, *[0.5 / CLIFF] * 8], others])) == [1, 9]


@pytest.mark.parametrize("tail", [[0.5], [0.5, 0.5], [0.5, 0.4, 0.05]])
def test_what_stands_alone_behind_a_cliff_is_signal(tail: list[float]):
    """Of a layer that had its noise taken by the size, a cliff inside its signal may be left."""
    layer = [1.0, *(worth / CLIFF for worth in tail)]
    assert above_noise(tensors([layer, [4.0] * 9])) == [len(layer), 9]


def test_a_layer_far_below_a_typical_position_stays_where_its_noise_is_further_below():
    """Whether that is there yet, or was given back."""
    low, noise, others = [1e-4] * 8, [1e-7] * 12, [4.0] * 9
    for kept in (low, low[:1]):
        assert above_noise(tensors([kept, others])) == [0 if len(kept) > 2 else 1, 9]
        assert above_noise(tensors([kept + noise, others])) == [len(kept), 9]
        assert above_noise(tensors([kept, others]), lost=[noise, []]) == [len(kept), 9]


def test_a_cliff_above_the_noise_excuses_nothing_below_it():
    """The tail's first position must itself be noise."""
    first, last = 4.0 * NOISE * 1.1, 4.0 * NOISE * 0.9
    layer = [4.0 * CLIFF * first, first, *[last] * 3]
    assert above_noise(tensors([[4.0] * 999999, layer]))[1] == 5


def test_a_strong_position_keeps_those_before_it():
    assert above_noise(tensors([[5.0, 0.001, 4.0, *[0.001] * 3], [5.0, 5.0]])) == [3, 2]
    assert above_noise(tensors([[5.0, 0.001, 4.0, *[0.001] * 3], [5.0, 5.0]]), 0.1) == [3, 2]


@given(layers=LAYERS, tolerance=st.floats(0, 1))
def test_a_tolerance_is_a_share_of_a_typical_position(layers, tolerance: float):
    worths = tensors(layers)
    least = tolerance * mean_worth(worths)
    expected = [sum(float(x) >= least and float(x) > 0 for x in descending(w)) for w in worths]
    assert above_noise(worths, tolerance) == expected


@given(layers=LAYERS, tolerances=st.tuples(st.floats(0, 1), st.floats(0, 1)))
def test_a_larger_tolerance_never_raises_a_rank(layers, tolerances):
    tight, loose = (above_noise(tensors(layers), t) for t in sorted(tolerances))
    assert all(a >= b for a, b in zip(tight, loose, strict=True))


@given(layers=LAYERS, factor=st.sampled_from([2.0**-20, 0.5, 4.0, 2.0**20]))
def test_the_scale_of_the_loss_plays_no_part(layers, factor: float):
    layers = [[w for w in worths if w == 0 or w > 1e-3] for worths in layers]
    worths = tensors(layers)
    for tolerance in (None, 0.125):
        scaled = [factor * w for w in worths]
        assert above_noise(scaled, tolerance) == above_noise(worths, tolerance)


@pytest.mark.parametrize("tolerance", [None, 0.1])
@pytest.mark.parametrize("length", [0, 1, 2, 5])
def test_a_layer_that_is_worth_nothing_goes_whole(length: int, tolerance: float | None):
    """As one whose forward is never called, or whose lora_up never left zero."""
    worths = [torch.zeros(length), torch.tensor([3.0, 2.0])]
    assert above_noise(worths, tolerance) == [0, 2]
