"""The ways to cut ranks that the experiments compare with mean what their names say."""

import pytest
import torch

from lora2_core import LoraLayer, RankedLora
from lora2_core.adapter.compress import compress, relative_error
from tests.benchmarks.ranks import controls
from tests.benchmarks.ranks.controls import sv_fro, sv_ratio, threshold_ranks, uniform
from tests.toys import random_lora


def of_values(*values: float) -> LoraLayer:
    """A layer with these singular values."""
    s = torch.tensor(values)
    return LoraLayer(torch.diag(s.sqrt()), torch.diag(s.sqrt()))


LORA = RankedLora({"a": of_values(3, 4 / 3, 1, 0.1), "b": of_values(2, 2, 2, 2)})
RANDOM = random_lora().rotated()
LARGEST = {
    "sv_fro": controls.largest_sv_fro,
    "sv_ratio": controls.largest_sv_ratio,
    "uniform": controls.largest_uniform,
}


@pytest.mark.parametrize(
    ("share", "ranks"),
    [(0, (1, 1)), (0.5, (1, 1)), (0.72, (1, 3)), (0.95, (2, 4)), (0.999, (3, 4)), (1, (4, 4))],
)
def test_sv_fro_keeps_the_fewest_that_hold_the_share(share: float, ranks: tuple):
    cut = sv_fro(LORA, share)
    assert tuple(cut.ranks.values()) == ranks
    for name, layer in cut.layers.items():
        whole = LORA.layers[name].energy
        assert float((layer.energy.sum() / whole.sum()).sqrt()) >= share - 1e-6
        if layer.rank > 1:
            assert float((whole[: layer.rank - 1].sum() / whole.sum()).sqrt()) < share


@pytest.mark.parametrize(
    ("ratio", "ranks"), [(1, (1, 4)), (2.5, (2, 4)), (3.5, (3, 4)), (29, (3, 4)), (31, (4, 4))]
)
def test_sv_ratio_keeps_what_is_no_further_below_the_first(ratio: float, ranks: tuple):
    assert tuple(sv_ratio(LORA, ratio).ranks.values()) == ranks


@pytest.mark.parametrize(
    ("least", "ranks"), [(2.5, (1, 0)), (1.9, (1, 4)), (1.2, (2, 4)), (0.01, (4, 4)), (4, (0, 0))]
)
def test_threshold_keeps_what_is_as_large_in_any_layer(least: float, ranks: tuple):
    assert tuple(threshold_ranks(LORA, least).values()) == ranks


@pytest.mark.parametrize("share", [0.1, 0.2, 0.5, 1.0])
def test_the_largest_threshold_cut_keeps_the_largest_singular_values(share: float):
    found = controls.largest_threshold(RANDOM, share * RANDOM.parameters)
    assert found.parameters <= share * RANDOM.parameters
    kept = torch.cat([layer.energy for layer in found.layers.values()])
    left = torch.cat([RANDOM.layers[n].energy[y.rank :] for n, y in found.layers.items()])
    assert share == 1 or kept.min() >= left.max()


def test_uniform_keeps_the_same_of_every_layer_as_far_as_it_goes():
    assert set(uniform(LORA, 2).ranks.values()) == {2}
    assert uniform(RANDOM, 7).ranks == {n: min(7, r) for n, r in RANDOM.ranks.items()}


@pytest.mark.parametrize("name", LARGEST)
@pytest.mark.parametrize("share", [0.2, 0.4, 0.5, 0.77, 1.0])
def test_bisection_finds_the_largest_that_fits(name: str, share: float):
    """No value of the rule in a fine grid gives one between the result and the limit."""
    limit = share * RANDOM.parameters
    found = LARGEST[name](RANDOM, limit)
    assert found.parameters <= limit and min(found.ranks.values()) >= 1
    grids = {
        "sv_fro": (sv_fro(RANDOM, i / 500) for i in range(501)),
        "sv_ratio": (sv_ratio(RANDOM, 10 ** (i / 100)) for i in range(501)),
        "uniform": (uniform(RANDOM, r) for r in range(1, 13)),
    }
    assert found.parameters >= max(x.parameters for x in grids[name] if x.parameters <= limit)


@pytest.mark.parametrize("name", LARGEST)
def test_too_few_parameters_are_refused(name: str):
    with pytest.raises(ValueError, match="10 parameters are too few: this rule needs "):
        LARGEST[name](RANDOM, 10)


@pytest.mark.parametrize("name", LARGEST)
@pytest.mark.parametrize("seed", range(5))
def test_compress_is_never_worse_at_the_size_of_a_control(name: str, seed: int):
    """Where the control's size is one that the global order reaches to within a position."""
    lora = random_lora(seed=seed).rotated()
    cut = LARGEST[name](lora, lora.parameters / 2)
    ours = compress(lora, budget_mb=cut.megabytes(), tolerance=0)
    largest = max(layer.cost for layer in lora.layers.values())
    assert cut.parameters - largest < ours.parameters <= cut.parameters
    reached = relative_error(lora, lora.within(ours.parameters + largest))
    assert reached <= relative_error(lora, cut) + 1e-12
