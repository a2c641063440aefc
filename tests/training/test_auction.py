"""The auction of adaptive mode: sizes fall to the ceiling, ranks rise too, planted ranks return."""

from __future__ import annotations

from dataclasses import dataclass, field

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

import lora2_core as lora2
from lora2_core.ranks.rank import continuous_rank
from lora2_core.ranks.worth import position_worth
from lora2_core.training import auction as prices
from lora2_core.training.auction import (
    FALL,
    LAYER_GIVEN_UP,
    REVIEWS,
    SIZED,
    AuctionPrice,
    hoped,
    singular_worth,
    squared_gradients,
)
from tests.tiers import fast
from tests.toys import Planted

RANKS = [4, 12, 1, 8, 2]
NOISE = 0.2  # of the outputs; without any, nothing says what is too much


@dataclass
class Run:
    """A run and what its auctions did: (step, allowed size, ranks) of each review."""

    adapters: lora2.Adapters
    steps: int
    price: AuctionPrice | None = None
    reviews: list[tuple] = field(default_factory=list)
    ranks: list[list[int]] = field(default_factory=list)  # after each step
    sizes: list[int] = field(default_factory=list)

    def targets(self) -> list[float]:
        return continuous_rank(self.adapters.rates, self.adapters.settings.quantile).tolist()


def run(ranks, target: int, *, steps: int = 300, seed: int = 0, factor: float = 1.0, **chosen):
    """A second on one thread at 300 steps; `factor` scales the loss."""
    model = Planted(ranks, width=32, seed=seed, noise=NOISE)
    settings = lora2.RankSettings(target_rank=target, max_rank=32, **chosen)
    done = Run(lora2.attach(model, "l", settings, seed=seed), steps)

    class Watched(AuctionPrice):
        def __init__(self, adapters: lora2.Adapters, steps: int):
            super().__init__(adapters, steps)
            done.price = self

        def review(self, optimizer: torch.optim.Optimizer, loss: float) -> None:
            rates = self.adapters.rate_parameter.clone()
            super().review(optimizer, loss)
            if not self.index % self.every and self.index < self.steps:
                done.reviews.append((self.index, self.allowed(), done.targets()))
            else:
                assert torch.equal(rates, self.adapters.rate_parameter), "ranks rest in between"

    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(prices.PRICES, "adaptive", Watched)
        training = lora2.TrainSettings(steps, 1e-2, seed)
        for step in lora2.train(done.adapters, lambda g: factor * model.loss(g), training):
            done.ranks.append(list(step.ranks.values()))
            done.sizes.append(done.adapters.parameters)
    return done


@pytest.fixture(scope="module")
def ample() -> Run:
    return run(RANKS, 12)


@pytest.fixture(scope="module")
def binding() -> Run:
    """Room for 20 of the 27 planted positions."""
    return run(RANKS, 4)


def test_planted_ranks_come_back_where_there_is_room(ample: Run):
    assert ample.ranks[-1] == RANKS
    assert list(lora2.finish(ample.adapters).ranks.values()) == RANKS


@pytest.mark.parametrize("seed", fast([1, 2]))
def test_planted_ranks_come_back_from_other_data(seed: int):
    assert run(RANKS, 12, seed=seed).ranks[-1] == RANKS


@pytest.mark.parametrize("factor", fast([1e-3, 1e3]))
def test_the_scale_of_the_loss_plays_no_part(factor: float):
    assert run(RANKS, 12, factor=factor).ranks[-1] == RANKS


def test_planted_ranks_come_back_where_there_is_just_room():
    """6 in the mean, 27 of 30 positions are needed."""
    assert run(RANKS, 6).ranks[-1] == RANKS


def test_a_ceiling_below_the_planted_ranks_is_used_up_and_no_layer_gets_more_than_it_needs(
    binding: Run,
):
    learned = binding.ranks[-1]
    assert 4 * len(RANKS) - 1 <= sum(learned) <= 4 * len(RANKS)
    assert all(0 <= rank <= planted for rank, planted in zip(learned, RANKS, strict=True))
    assert learned[1] > learned[0] and learned[3] > learned[0] >= learned[2]
    assert list(lora2.finish(binding.adapters).ranks.values()) == learned, "nothing is left to cut"


@pytest.mark.parametrize("chosen", [{"target": 3}, {"target": 8, "tolerance": 0.03}], ids=str)
def test_a_layer_that_needs_nothing_is_given_up(chosen: dict):
    """Where others need the room, or where a tolerance says what is too little."""
    done = run([4, 0, 8, 1], steps=600, **chosen)
    learned = done.ranks[-1]
    assert learned[1] <= 1
    assert learned[0] in (3, 4) and learned[2] == 8 and learned[3] <= 1
    assert all(torch.isfinite(up).all() for up, _ in done.adapters.folded().values())
    for component in done.adapters.components.values():
        assert torch.isfinite(component.module(torch.randn(3, 32))).all()


def test_reviews_are_spread_over_the_run_and_none_is_at_its_end(ample: Run):
    steps = [step for step, *_ in ample.reviews]
    assert steps == [300 * i // REVIEWS for i in range(1, REVIEWS)]


@pytest.mark.parametrize("name", ["ample", "binding"])
def test_ranks_are_what_the_auctions_say_and_fit_the_allowed_size(name: str, request):
    done = request.getfixturevalue(name)
    for step, allowed, targets in done.reviews:
        ranks = [0 if t == pytest.approx(LAYER_GIVEN_UP) else t for t in targets]
        assert sum(ranks) * 2 * 32 <= allowed * (1 + 1e-5)
        assert ranks == pytest.approx([round(t) for t in ranks], abs=1e-3)
        assert done.ranks[step - 1] == [round(t) for t in ranks]


@pytest.mark.parametrize("name", ["ample", "binding"])
def test_the_size_is_reached_and_kept(name: str, request):
    """At SIZED of the run, and up to its end."""
    done = request.getfixturevalue(name)
    assert max(done.sizes[int(SIZED * done.steps) :]) <= done.adapters.ceiling
    assert [round(t) for t in done.targets()] == done.ranks[-1]


def test_a_layer_far_above_the_mean_grows_beyond_its_first_rank():
    done = run([1, 12, 1, 1], 4, start_rank=6)  # room for 16
    assert done.ranks[0] == [6] * 4
    assert done.ranks[-1] == [1, 12, 1, 1]


def auction(**settings) -> AuctionPrice:
    """Before the first step of 100: three layers of 16 x 16."""
    chosen = {"target_rank": 2, "max_rank": 16, "start_rank": 8} | settings
    adapters = lora2.attach(Planted([1, 4, 2], width=16), "l", lora2.RankSettings(**chosen))
    return AuctionPrice(adapters, 100)


def allowed(price: AuctionPrice) -> list[float]:
    sizes = []
    for price.index in range(101):
        sizes.append(price.allowed())
    return sizes


def test_the_allowed_size_falls_geometrically_from_the_first_size_to_the_ceiling():
    sizes, last = allowed(auction()), round(100 * SIZED)
    assert sizes[0] == pytest.approx(8 * 3 * 32)
    assert sizes[last:] == pytest.approx([2 * 3 * 32] * (101 - last))
    falls = [b / a for a, b in zip(sizes[:last], sizes[1:], strict=False)]
    assert falls == pytest.approx([(2 / 8) ** (1 / last)] * last)


def test_a_run_that_starts_below_the_ceiling_may_use_all_of_it():
    assert allowed(auction(start_rank=1)) == pytest.approx([2 * 3 * 32] * 101)


def test_a_budget_in_megabytes_is_the_ceiling():
    assert allowed(auction(budget_mb=0.0002))[-1] == pytest.approx(100)


def test_no_gradient_moves_the_rates():
    price = auction()
    (price.adapters.components["l0"].module(torch.ones(1, 16))).sum().backward()
    assert price.penalty(torch.tensor(3.0)).item() == 0
    assert price.adapters.rate_parameter.grad is None


@given(rank=st.integers(0, 12), most=st.integers(0, 20), last=st.floats(1e-6, 1e6))
def test_hopes_fall_from_the_last_position_and_end_at_twice_the_rank_or_the_most(rank, most, last):
    worth = last * torch.arange(rank, 0, -1, dtype=torch.float64)
    found = hoped(worth, most)
    assert len(found) == max(0, min(rank, most - rank))
    for i, value in enumerate(found.tolist(), 1):
        assert value == pytest.approx(last / FALL**i)


def worths(*layers: list[float]) -> list[Tensor]:
    return [torch.tensor(layer) for layer in layers]


def test_while_the_size_falls_a_layer_takes_places_that_are_worth_less_to_others():
    price = auction(target_rank=2, start_rank=2)  # room for 6 positions
    bids = worths([9.0, 9.0], [9.0, 0.1], [9.0, 0.1])
    assert price.auction(bids) == [4, 1, 1] and price.shrunk == [1, 2]
    assert price.auction(worths([9.0] * 4, [9.0], [9.0])) == [4, 1, 1], "who shrank hopes no more"


def test_once_the_size_is_reached_layers_grow_only_into_room_that_is_left():
    price = auction(target_rank=2, start_rank=2)
    price.index = round(100 * SIZED)
    assert price.auction(worths([9.0, 9.0], [9.0, 0.1], [9.0, 0.1])) == [2, 2, 2]
    assert price.auction(worths([9.0, 9.0], [9.0], [9.0, 0.1])) == [3, 1, 2]
    price.settled = [0]
    assert price.auction(worths([9.0, 9.0], [9.0], [9.0, 0.1])) == [2, 2, 2]
    price.index = 100 - price.every
    assert price.auction(worths([9.0], [9.0], [9.0, 0.1])) == [1, 1, 2], "nothing judges it later"


def test_a_layer_is_judged_no_more_once_it_has_given_noise_back():
    """What stands behind the cliff of a layer without noise is signal: a rank of 2 beside 40."""
    price, noise = auction(), [1e-4] * 4
    price.index = round(100 * SIZED)
    first = price.without_noise(worths([9.0, 0.5, *noise], [9.0] * 6, [9.0, 9.0]))
    assert [len(w) for w in first] == [2, 6, 2] and price.settled == [0]
    second = price.without_noise(worths([9.0, 0.1], [9.0] * 6, [9.0, 0.1]))
    assert [len(w) for w in second] == [2, 6, 1] and price.settled == [0, 2]


def test_noise_is_not_judged_before_the_size_is_reached():
    price = auction()
    price.index = round(100 * SIZED) - 1
    assert [len(w) for w in price.without_noise(worths([9.0, 1e-6], [9.0], [9.0]))] == [2, 1, 1]


class Stopped(torch.optim.Adam):
    """Adam that has seen these squared gradients of lora_up."""

    def __init__(self, adapters: lora2.Adapters, squares: dict[str, Tensor]):
        components = adapters.components.values()
        super().__init__([p for c in components for p in (c.lora_up, c.lora_down)])
        for name, square in squares.items():
            self.state[adapters.components[name].lora_up] = {"exp_avg_sq": square}


def reviewed(price: AuctionPrice, factors: list[float], at: float) -> list[float]:
    """Target ranks after a review with random lora_up and mean squares of these sizes."""
    adapters, generator = price.adapters, torch.Generator().manual_seed(1)
    squares = {}
    for (name, component), factor in zip(adapters.components.items(), factors, strict=True):
        component.lora_up.data.normal_(generator=generator)
        if factor:
            squares[name] = torch.full_like(component.lora_up, factor)
    price.index = round(100 * at) - 1
    price.review(Stopped(adapters, squares), 1.0)
    return continuous_rank(adapters.rates, adapters.settings.quantile).tolist()


def test_a_layer_worth_more_gets_more_and_one_without_gradients_nothing():
    price = auction(target_rank=4)  # room for 12 positions, of 24
    first, second, third = reviewed(price, [1.0, 4.0, 0.0], SIZED)
    assert second > first > 0.5
    assert third == pytest.approx(LAYER_GIVEN_UP)
    assert round(first) + round(second) == 12
    worths = list(price.adapters.worths.values())
    assert worths[1] > worths[0] > 0 == worths[2]


def test_worths_of_layers_are_sums_in_the_singular_basis():
    price = auction()
    reviewed(price, [1.0, 16.0, 4.0], SIZED)
    for component, found in zip(
        price.adapters.components.values(), price.adapters.worths.values(), strict=True
    ):
        up = component.lora_up[:, :8].detach()
        norms = up.norm(dim=0) * component.lora_down[:8].norm(dim=1)
        assert (norms[:-1] * price.adapters.weights[0, :7] > 0).all()
        gram = up.T @ up
        torch.testing.assert_close(gram, gram.diagonal().diag(), rtol=0, atol=1e-4)
        assert found > 0


def test_squared_gradients_are_zero_until_adam_has_seen_some():
    price = auction()
    (first, second, _) = price.adapters.components.values()
    optimizer = Stopped(price.adapters, {"l0": torch.ones(16, 16)})
    assert torch.equal(squared_gradients(optimizer, first.lora_up, 3), torch.ones(16, 3))
    assert torch.equal(squared_gradients(optimizer, second.lora_up, 0), torch.zeros(16, 0))
    zeros = squared_gradients(optimizer, second.lora_up, 5)
    assert torch.equal(zeros, torch.zeros(16, 5))
    assert not position_worth(second.lora_up[:, :5], zeros).any()


def test_the_first_review_turns_every_layer_and_later_ones_what_gives_rank_back():
    """To the basis that the worths of all were read in."""
    price = auction(target_rank=6)
    adapters, turned = price.adapters, []
    turn = adapters.turn
    adapters.turn = lambda turns, optimizer: (turned.append(sorted(turns)), turn(turns, optimizer))
    for time in (1 / REVIEWS, SIZED):
        targets = reviewed(price, [0.01, 4.0, 2.0], time)
    shrinking = [row for row, target in enumerate(targets) if target < 7.9]
    assert 0 < len(shrinking) < 3 and turned == [[0, 1, 2], shrinking]
    for row, component in enumerate(adapters.components.values()):
        norms = component.lora_up[:, :8].detach().square().sum(0)
        assert bool((norms[:-1] >= norms[1:]).all()) == (row in shrinking)


def test_worths_of_a_layer_are_those_that_it_has_once_it_is_turned():
    price = auction()
    adapters, generator = price.adapters, torch.Generator().manual_seed(1)
    for component in adapters.components.values():
        component.lora_up.data.normal_(generator=generator)
    squares = {
        name: torch.rand(component.lora_up.shape, generator=generator)
        for name, component in adapters.components.items()
    }
    optimizer, turns = Stopped(adapters, squares), adapters.singular_turns()
    found = [
        singular_worth(c.lora_up[:, :8], squared_gradients(optimizer, c.lora_up, 8), turns.get(row))
        for row, c in enumerate(adapters.components.values())
    ]
    adapters.turn(turns, optimizer)
    for component, worth in zip(adapters.components.values(), found, strict=True):
        after = squared_gradients(optimizer, component.lora_up, 8)
        torch.testing.assert_close(worth, position_worth(component.lora_up[:, :8], after))
