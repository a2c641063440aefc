"""A finished adapter: every prefix of a layer is the best, every cut the cheapest."""

from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lora2_core import LoraLayer, RankedLora
from lora2_core.adapter.origin import Learned, Origin
from tests.toys import SHAPES, random_lora

KEEPS = [1e-6, 0.01, 0.1, 0.25, 1 / 3, 0.5, 0.7, 0.9, 0.999, 1.0]
LORA = random_lora().rotated()


def layer_of(rows: int, fan_in: int, rank: int, kernel=None, dtype=torch.float32) -> LoraLayer:
    return random_lora({"x": (rows, fan_in, rank, kernel)}, seed=rank).layers["x"]


SHAPED = pytest.mark.parametrize(
    "layer",
    [
        layer_of(20, 30, 7),
        layer_of(30, 20, 20),  # as much as the shape can hold
        layer_of(4, 72, 3, (3, 3)),
        layer_of(9, 9, 1),
        layer_of(6, 9, 8),  # more positions than the product has rank
        layer_of(5, 5, 0),
    ],
    ids=lambda layer: f"{tuple(layer.up.shape)}",
)


@SHAPED
def test_rotation_keeps_the_product(layer: LoraLayer):
    before, after = layer.delta(), layer.rotated().delta()
    assert after.shape == before.shape
    torch.testing.assert_close(after, before, rtol=1e-5, atol=1e-5)


@SHAPED
def test_rotation_sorts_by_singular_value_and_shares_it_evenly(layer: LoraLayer):
    rotated = layer.rotated()
    singular = torch.linalg.svdvals(layer.delta().flatten(1).double())[: rotated.rank]
    torch.testing.assert_close(rotated.energy.sqrt(), singular, rtol=1e-4, atol=1e-5)
    norms = rotated.up.norm(dim=0), rotated.down.norm(dim=1)
    torch.testing.assert_close(*norms, rtol=1e-4, atol=1e-5)


@SHAPED
def test_every_prefix_is_the_best_of_its_rank(layer: LoraLayer):
    """Eckart-Young: no matrix of rank r is nearer than the first r singular triplets."""
    rotated, dense = layer.rotated(), layer.delta().flatten(1).double()
    u, s, vh = torch.linalg.svd(dense, full_matrices=False)
    for rank in range(rotated.rank + 1):
        best = (dense - (u[:, :rank] * s[:rank]) @ vh[:rank]).norm()
        prefix = rotated.first(rank)
        assert prefix.rank == rank
        found = (dense - prefix.delta().flatten(1).double()).norm()
        assert float(found) == pytest.approx(float(best), rel=1e-4, abs=1e-4)


@SHAPED
def test_file_shapes_and_back(layer: LoraLayer):
    up, down = layer.file_tensors()
    if layer.kernel:
        assert up.shape[2:] == (1, 1) and down.shape[2:] == layer.kernel
    back = LoraLayer.from_tensors(up, down)
    assert back.kernel == layer.kernel
    assert torch.equal(back.up, layer.up) and torch.equal(back.down, layer.down)


def test_an_empty_convolution_has_file_shapes_too():
    up, down = layer_of(4, 72, 3, (3, 3)).first(0).file_tensors()
    assert up.shape == (4, 0, 1, 1) and down.shape == (0, 8, 3, 3)


def test_rotation_of_an_adapter_says_so():
    assert not random_lora().singular
    assert LORA.singular
    assert LORA.truncated(0.5).singular


def naive_within(lora: RankedLora, parameters: float) -> dict[str, int]:
    """Takes positions one by one, the most energy a parameter first, until one is too much."""
    ranks, used = dict.fromkeys(lora.layers, 0), 0
    factors = lora.origin.learned.sensitivity
    while True:
        offers = [
            (float(layer.energy[ranks[name]]) * factors.get(name, 1) / layer.cost, name)
            for name, layer in lora.layers.items()
            if ranks[name] < layer.rank
        ]
        if not offers:
            return ranks
        _, name = max(offers)
        if used + lora.layers[name].cost > parameters:
            return ranks
        ranks[name] += 1
        used += lora.layers[name].cost


@given(share=st.floats(0, 1.1))
@settings(max_examples=60)
def test_a_cut_takes_the_least_energy_a_parameter_and_never_exceeds(share: float):
    budget = share * LORA.parameters
    cut = LORA.within(budget)
    assert cut.parameters <= budget or cut.parameters == 0
    assert cut.ranks == naive_within(LORA, budget)


@given(share=st.floats(0, 1.1), factors=st.lists(st.floats(1e-3, 1e3), max_size=len(SHAPES)))
@settings(max_examples=60)
def test_a_cut_weighs_energy_by_what_the_loss_made_of_it(share: float, factors: list[float]):
    """A layer that the file says nothing of counts as 1."""
    known = dict(zip(SHAPES, factors, strict=False))
    lora = replace(LORA, origin=Origin(Learned(sensitivity=known)))
    cut = lora.within(share * lora.parameters)
    assert cut.ranks == naive_within(lora, share * lora.parameters)
    assert cut.origin.learned.sensitivity == known, "and a cut can be cut again"
    again = cut.within(0.5 * share * lora.parameters)
    assert again.ranks == lora.within(0.5 * share * lora.parameters).ranks


def test_a_layer_that_the_loss_does_not_feel_goes_first():
    first = next(iter(SHAPES))
    lora = RankedLora(LORA.layers, Origin(Learned(sensitivity={first: 0.0})))
    cut = lora.within(lora.parameters - LORA.layers[first].rank * LORA.layers[first].cost)
    assert cut.ranks == LORA.ranks | {first: 0}


@given(shares=st.tuples(st.floats(0, 1), st.floats(0, 1)))
@settings(max_examples=60)
def test_a_larger_budget_never_lowers_a_rank(shares: tuple[float, float]):
    small, large = (LORA.within(s * LORA.parameters).ranks for s in sorted(shares))
    assert all(small[name] <= large[name] for name in LORA.layers)


def test_cutting_twice_is_cutting_once():
    once = LORA.within(300)
    assert LORA.within(700).within(300).ranks == once.ranks


def test_a_cut_keeps_the_first_positions_of_each_layer():
    for name, layer in LORA.truncated(0.4).layers.items():
        whole = LORA.layers[name]
        assert torch.equal(layer.up, whole.up[:, : layer.rank])
        assert torch.equal(layer.down, whole.down[: layer.rank])
        assert layer.kernel == whole.kernel


def test_a_cut_takes_equal_positions_from_the_tail():
    """Every position has the same energy: each layer still keeps a prefix, no more than fits."""
    even = RankedLora({n: LoraLayer(torch.ones(4, 5), torch.ones(5, 4)) for n in "abc"})
    for budget in range(0, 121, 4):
        cut = even.within(budget)
        assert cut.parameters == budget // 8 * 8
        assert sorted(cut.ranks.values())[1] in (0, 5) or max(cut.ranks.values()) == 5


def test_an_unsorted_tail_with_energy_keeps_what_stands_before_it():
    """Outside the singular basis a strong last position keeps the weak ones before it: no gaps."""
    strong_last = LoraLayer(torch.tensor([[0.1, 0.1, 9.0]]), torch.ones(3, 1))
    weak = LoraLayer(torch.tensor([[1.0, 1.0, 1.0]]), torch.ones(3, 1))
    assert RankedLora({"a": strong_last, "b": weak}).within(6).ranks == {"a": 3, "b": 0}


@pytest.mark.parametrize("keep", KEEPS)
def test_keep_is_a_share_of_the_parameters(keep: float):
    cut = LORA.truncated(keep)
    assert cut.parameters <= keep * LORA.parameters
    largest = max(layer.cost for layer in LORA.layers.values())
    assert cut.parameters > keep * LORA.parameters - largest, "not a position less than needed"
    assert list(cut.layers) == list(LORA.layers), "rank 0 stays in the list"
    if keep == 1:
        assert cut is LORA


def test_keep_one_by_one_gives_every_size_there_is():
    sizes = {LORA.truncated(i / 1000).parameters for i in range(1, 1001)}
    assert len(sizes) == sum(LORA.ranks.values()) + 1


@pytest.mark.parametrize("keep", [0, -0.5, 1.01, float("nan"), float("inf"), "half", True, None])
def test_a_keep_out_of_range_is_refused(keep):
    with pytest.raises(ValueError, match="keep is .*: give a number from"):
        LORA.truncated(keep)


def test_counts():
    assert LORA.parameters == sum(r * (rows + fan) for rows, fan, r, _ in SHAPES.values())
    costs = sum(rows + fan for rows, fan, *_ in SHAPES.values())
    assert LORA.mean_rank == LORA.parameters / costs
    assert LORA.megabytes() == LORA.parameters * 2 / 1e6
    assert LORA.megabytes(4) == 2 * LORA.megabytes()
