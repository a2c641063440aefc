"""The maths of ranks, against plain Python and the facts that the method is designed with."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from lora2_core.ranks.rank import (
    continuous_rank,
    importance,
    matched_std,
    nearest_rank,
    paper_std,
    plain_std,
    rank_loss,
    rank_of,
    rate_for,
    relative_importance,
    stable_weights,
)

RATES = [0.003, 0.036, 0.288, 1.0, 2.5]
RANKS = [1, 2, 3, 8, 64, 500, 512]
QUANTILES = [0.5, 0.8, 0.9, 0.99]


def naive_importance(rate: float, length: int) -> list[float]:
    return [math.exp(-rate * i) - math.exp(-rate * (i + 1)) for i in range(length)]


def naive_rank(rate: float, quantile: float, max_rank: int) -> int:
    return min(max(math.ceil(-math.log(1 - quantile) / rate - 1e-3), 1), max_rank)


def row(rate: float, length: int) -> torch.Tensor:
    return importance(torch.tensor([rate], dtype=torch.float64), length)[0]


def test_importance_is_the_discretised_exponential():
    found = importance(torch.tensor(RATES), 40)
    expected = torch.tensor([naive_importance(rate, 40) for rate in RATES])
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-7)
    assert (found.diff(dim=1) < 0).all(), "importance falls strictly"


def test_importance_keeps_its_digits_where_a_difference_of_exponentials_loses_them():
    """At rank 20,000 exp(-nu i) - exp(-nu (i + 1)) in fp32 is mostly rounding."""
    rate = rate_for(20_000)
    found = importance(torch.tensor([rate]), 3)[0].tolist()
    assert found == pytest.approx([-math.expm1(-rate) * math.exp(-rate * i) for i in range(3)])


def test_relative_importance_is_importance_with_one_at_the_first_position():
    rates = torch.tensor(RATES, dtype=torch.float64)
    f = importance(rates, 30)
    torch.testing.assert_close(relative_importance(rates, 30), f / f[:, :1])


@given(
    ranks=st.lists(st.integers(0, 40), min_size=1, max_size=5),
    mean_rank=st.floats(0.5, 64),
    off=st.floats(0.7, 1.4),
)
def test_stable_weights_have_one_sum_of_squares_at_every_rank(ranks, mean_rank, off):
    """A rate and its rounded rank need not agree; a layer of rank 0 counts as one of rank 1."""
    rates = torch.tensor([off * rate_for(max(r, 1), 0.3) for r in ranks], dtype=torch.float64)
    weights = stable_weights(rates, torch.tensor(ranks), mean_rank, 40)
    for rank, weight in zip(ranks, weights, strict=True):
        assert float(weight[: max(rank, 1)].square().sum()) == pytest.approx(mean_rank)
    torch.testing.assert_close(weights / weights[:, :1], relative_importance(rates, 40))


def test_stable_weights_are_plain_lora_where_importance_does_not_fall():
    weights = stable_weights(torch.full((2,), 1e-9), torch.tensor([8, 2]), 8.0, 8)
    torch.testing.assert_close(weights, torch.tensor([[1.0] * 8, [2.0] * 8]))
    beyond = stable_weights(torch.full((1,), 1e-9), torch.tensor([16]), 8.0, 16)
    torch.testing.assert_close(beyond, torch.full((1, 16), 0.5**0.5))


def test_the_scale_of_stable_weights_is_a_constant_to_the_gradient():
    """d w_i / d nu = -i w_i: the rate learns from how importance falls, not from its scale."""
    rates = torch.tensor([0.1, 0.4], requires_grad=True)
    weights = stable_weights(rates, torch.tensor([6, 3]), 5.0, 6)
    (found,) = torch.autograd.grad(weights.sum(), rates)
    torch.testing.assert_close(found, -(torch.arange(6) * weights.detach()).sum(1))


@pytest.mark.parametrize("quantile", [0.3, *QUANTILES])
def test_the_nearest_rank_rounds_and_may_be_zero(quantile: float):
    wanted = [0.3, 0.49, 0.51, 1.0, 2.4, 2.6, 64.0, 511.6, 1e9]
    rates = torch.tensor([rate_for(rank, quantile) for rank in wanted], requires_grad=True)
    found = nearest_rank(rates, quantile, torch.full((9,), 512))
    assert found.dtype == torch.int64 and not found.requires_grad
    assert found.tolist() == [0, 0, 1, 1, 2, 3, 64, 512, 512]


@pytest.mark.parametrize("quantile", [0.3, *QUANTILES])
def test_a_rate_that_hovers_does_not_move_the_nearest_rank(quantile: float):
    wanted = torch.arange(1, 513)
    for off in (0.9991, 1.0, 1.0009):
        rates = off * torch.tensor([rate_for(rank, quantile) for rank in wanted.tolist()])
        assert torch.equal(nearest_rank(rates, quantile, torch.full((512,), 512)), wanted)


def test_the_nearest_rank_stays_below_each_layers_own_maximum():
    rates = torch.tensor([1e-30, 0.0, rate_for(9, 0.3)])
    assert nearest_rank(rates, 0.3, torch.tensor([7, 8, 4])).tolist() == [7, 8, 4]


@pytest.mark.parametrize("quantile", QUANTILES)
def test_rank_is_the_naive_one(quantile: float):
    rates = torch.tensor(RATES)
    found = rank_of(rates, quantile, torch.full((5,), 300))
    assert found.dtype == torch.int64
    assert found.tolist() == [naive_rank(rate, quantile, 300) for rate in RATES]


def test_rank_stays_between_1_and_each_layers_own_maximum():
    rates = torch.tensor([1e3, 1e-9, 0.0, -1.0, rate_for(5)])
    assert rank_of(rates, 0.9, torch.tensor([7, 8, 9, 10, 4])).tolist() == [1, 8, 9, 10, 4]


@pytest.mark.parametrize("logarithmic", [False, True])
@pytest.mark.parametrize("quantile", QUANTILES)
def test_the_rate_for_a_rank_has_that_rank_in_fp32(quantile: float, logarithmic: bool):
    wanted = torch.arange(1, 513)
    rates = torch.tensor([rate_for(rank, quantile) for rank in wanted.tolist()])
    if logarithmic:  # adaptive mode stores ln(nu)
        rates = rates.log().exp()
    assert torch.equal(rank_of(rates, quantile, torch.full((512,), 512)), wanted)


@given(
    rate=st.floats(2**-13, 8, width=32),
    quantiles=st.tuples(st.floats(0.01, 0.9999), st.floats(0.01, 0.9999)),
)
def test_a_higher_quantile_never_lowers_a_rank(rate: float, quantiles: tuple[float, float]):
    low, high = sorted(quantiles)
    rates, top = torch.tensor([rate]), torch.tensor([100_000])
    assert rank_of(rates, low, top) <= rank_of(rates, high, top)


@given(rates=st.tuples(st.floats(2**-13, 8, width=32), st.floats(2**-13, 8, width=32)))
def test_a_faster_decay_never_raises_a_rank(rates: tuple[float, float]):
    slow, fast = rank_of(torch.tensor(sorted(rates)), 0.9, torch.tensor([99_999, 99_999])).tolist()
    assert slow >= fast


@pytest.mark.parametrize("rank", RANKS)
@pytest.mark.parametrize("quantile", QUANTILES)
def test_the_quantile_of_all_importance_lies_inside_the_rank(rank: int, quantile: float):
    assert float(row(rate_for(rank, quantile), rank).sum()) == pytest.approx(quantile)


@pytest.mark.parametrize("rank", RANKS)
def test_the_last_position_has_about_a_tenth_of_the_firsts_importance(rank: int):
    f, rate = row(rate_for(rank), rank), rate_for(rank)
    ratio = float(f[-1] / f[0])
    assert ratio == pytest.approx(0.1 * math.exp(rate))
    if rank >= 64:
        assert ratio == pytest.approx(0.1, rel=0.04)


@pytest.mark.parametrize("rank", RANKS)
def test_the_sum_of_squares_has_a_closed_form(rank: int):
    rate = rate_for(rank)
    expected = math.tanh(rate / 2) * (1 - 0.1**2)
    assert float(row(rate, rank).square().sum()) == pytest.approx(expected)


@pytest.mark.parametrize(("rank", "std"), [(8, 3.8), (64, 10.6), (512, 30.0)])
def test_the_papers_standard_deviation(rank: int, std: float):
    assert round(paper_std(row(rate_for(rank), rank)), 1) == std


@pytest.mark.parametrize("rank", RANKS)
def test_matched_init_has_an_ordinary_loras_variance_after_lambda(rank: int):
    """kaiming_uniform with a = sqrt(5) draws from +-sqrt(1 / fan_in): variance 1 / (3 fan_in)."""
    f = row(rate_for(rank), rank)
    variance = (matched_std(f, 1280) * f).square().mean()
    assert float(variance) == pytest.approx(1 / (3 * 1280))


def test_rank_loss_is_the_sum_of_distances():
    rates = torch.tensor([0.5, 0.1, 0.2])
    assert float(rank_loss(rates, 0.2)) == pytest.approx(0.3 + 0.1 + 0.0)
    assert float(rank_loss(rates, torch.tensor([0.5, 0.0, 0.4]))) == pytest.approx(0.1 + 0.2)


def test_only_importance_and_the_continuous_rank_carry_gradients():
    rates = torch.tensor([0.1, 0.4], requires_grad=True)
    assert not rank_of(rates, 0.9, torch.tensor([64, 64])).requires_grad
    continuous_rank(rates).sum().backward()
    slope = [-math.log(10) / 0.1**2, -math.log(10) / 0.4**2]  # METHOD: dD/dnu = -D^2 / 2.303
    assert rates.grad.tolist() == pytest.approx(slope, rel=1e-5)


@pytest.mark.parametrize("fan_in", [1, 96, 1280])
def test_plain_std_is_that_of_an_ordinary_lora(fan_in: int):
    """nn.Linear's own initialisation is kaiming-uniform with a = sqrt(5)."""
    torch.manual_seed(0)
    weight = torch.nn.Linear(fan_in, 200_000 // fan_in, bias=False).weight
    assert plain_std(fan_in) == pytest.approx(weight.std().item(), rel=0.02)
