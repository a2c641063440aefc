"""The auction of adaptive mode: sizes fall to the ceiling, targets hold, planted ranks return."""

from __future__ import annotations

from dataclasses import dataclass, field

import pytest
import torch
from torch import Tensor

import lora2_core as lora2
from lora2_core.ranks.modes import AUCTION_WEIGHT
from lora2_core.ranks.rank import rate_for
from lora2_core.ranks.worth import position_worth
from lora2_core.training import auction as prices
from lora2_core.training.auction import (
    LAYER_GIVEN_UP,
    REVIEWS,
    SIZED,
    AuctionPrice,
    singular_worth,
    squared_gradients,
)
from tests.tiers import fast
from tests.toys import Planted

RANKS = [4, 12, 1, 8, 2]
NOISE = 0.2  # of the outputs; without any, nothing says what is too much


@dataclass
class Run:
    """A run and what its auction did: (step, allowed size, target ranks, ranks before) a review."""

    adapters: lora2.Adapters
    steps: int
    price: AuctionPrice | None = None
    reviews: list[tuple] = field(default_factory=list)
    ranks: list[list[int]] = field(default_factory=list)  # after each step
    sizes: list[int] = field(default_factory=list)
    passed: float = 0.0  # the most that a log-rate was above its target after a review's call

    def targets(self) -> list[float]:
        rates = self.price.targets.exp()
        return (rate_for(1.0, self.adapters.settings.quantile) / rates).tolist()


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
            before, targets = list(self.adapters.ranks.values()), self.targets
            held = targets
            super().review(optimizer, loss)
            if held is not None:
                above = (self.adapters.rate_parameter - held).max().item()
                done.passed = max(done.passed, above)
            if self.targets is not targets:
                done.reviews.append((self.index, self.allowed(), done.targets(), before))

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


def test_reviews_are_spread_between_first_and_last(ample: Run):
    steps = [step for step, *_ in ample.reviews]
    every = ample.steps // REVIEWS
    assert steps == list(range(every, 300, every))


@pytest.mark.parametrize("name", ["ample", "binding"])
def test_targets_fit_the_allowed_size_and_only_take_away(name: str, request):
    done = request.getfixturevalue(name)
    cost = 2 * 32
    for _, allowed, targets, before in done.reviews:
        whole = [0 if t == pytest.approx(LAYER_GIVEN_UP) else t for t in targets]
        assert sum(whole) * cost <= allowed * (1 + 1e-5)
        assert all(t <= b + 1e-3 for t, b in zip(whole, before, strict=True))
        assert whole == pytest.approx([round(t) for t in whole], abs=1e-3)


@pytest.mark.parametrize("name", ["ample", "binding"])
def test_no_rank_is_carried_past_its_target(name: str, request):
    done = request.getfixturevalue(name)
    assert done.passed <= 0
    held = {step: targets for step, _, targets, _ in done.reviews}
    target = None
    for step, ranks in enumerate(done.ranks, 1):
        if target:
            assert all(r >= round(t) for r, t in zip(ranks, target, strict=True))
        target = held.get(step, target)


@pytest.mark.parametrize("name", ["ample", "binding"])
def test_the_size_is_reached_and_kept(name: str, request):
    """Soon after SIZED of the run, and up to its end; the ranks then come to rest."""
    done = request.getfixturevalue(name)
    late = int(0.75 * done.steps)
    assert max(done.sizes[late:]) <= done.adapters.ceiling
    assert all(ranks == done.ranks[-1] for ranks in done.ranks[int(0.95 * done.steps) :])
    assert [round(t) for t in done.targets()] == done.ranks[-1]


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
    sizes = allowed(auction())
    first, last = round(100 / REVIEWS), round(100 * SIZED)
    assert sizes[: first + 1] == pytest.approx([8 * 3 * 32] * (first + 1))
    assert sizes[last:] == pytest.approx([2 * 3 * 32] * (101 - last))
    falls = [b / a for a, b in zip(sizes[first:last], sizes[first + 1 :], strict=False)]
    assert falls == pytest.approx([(2 / 8) ** (1 / (last - first))] * (last - first))


def test_a_run_that_starts_below_the_ceiling_may_use_all_of_it():
    assert allowed(auction(start_rank=1)) == pytest.approx([2 * 3 * 32] * 101)


def test_a_budget_in_megabytes_is_the_ceiling():
    assert allowed(auction(budget_mb=0.0002))[-1] == pytest.approx(100)


def test_the_penalty_is_nothing_before_the_first_review():
    price = auction()
    assert price.penalty(torch.tensor(3.0)).item() == 0


@pytest.mark.parametrize(("weight", "factor"), [(None, AUCTION_WEIGHT), (0.5, 0.5), (0.0, 0.0)])
def test_the_penalty_is_the_distance_to_each_layers_target(weight: float | None, factor: float):
    price = auction(rank_weight=weight)
    rates = price.adapters.rate_parameter
    loss = torch.tensor(3.0, requires_grad=True)
    price.review(Stopped(price.adapters, {}), 3.0)  # the level of the loss
    price.targets = rates.detach() + torch.tensor([1.0, 0.1, -2.0])
    found = price.penalty(loss)
    assert found.item() == pytest.approx(factor * 3 * (1 + 0.1 + 2), rel=1e-5)
    found.backward()
    expected = [-factor * 3, -factor * 3, factor * 3]
    assert rates.grad.tolist() == pytest.approx(expected, rel=1e-4, abs=1e-9)
    assert loss.grad is None, "the loss itself is not weighed up"
    assert all(c.lora_up.grad is None for c in price.adapters.components.values())


def test_the_penalty_takes_the_level_of_the_loss_before_the_first_review():
    """A loss that vanishes later must not take the pull on the rates with it."""
    price, running = auction(), None
    for now in (4.0, 2.0, 8.0):
        price.review(Stopped(price.adapters, {}), now)
        running = now if running is None else 0.95 * running + 0.05 * now
        assert price.level == pytest.approx(running)
    price.targets = price.adapters.rate_parameter.detach() + 1
    before = price.penalty(torch.tensor(4.0)).item()
    price.review(Stopped(price.adapters, {}), 0.0)
    assert price.penalty(torch.tensor(0.0)).item() == before > 0
    assert price.level == pytest.approx(running)


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
    return (rate_for(1.0, adapters.settings.quantile) / price.targets.exp()).tolist()


def test_a_layer_worth_more_gets_more_and_one_without_gradients_nothing():
    price = auction(target_rank=4)  # room for 12 positions, of 24
    first, second, third = reviewed(price, [1.0, 4.0, 0.0], SIZED)
    assert second > first > 0.5
    assert third == pytest.approx(LAYER_GIVEN_UP)
    assert round(first) + round(second) == 12
    worths = list(price.adapters.worths.values())
    assert worths[1] > worths[0] > 0 == worths[2]


def test_worths_are_tempered_sums_in_the_singular_basis():
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


def test_nothing_is_reviewed_before_first_or_after_last():
    for index in (0.02, 0.08, 0.92, 1.0):
        price = auction()
        price.index = round(100 * index) - 1
        price.review(Stopped(price.adapters, {}), 1.0)
        assert price.targets is None and price.adapters.worths == {}


def settled(price: AuctionPrice, worths: list[list[float]]) -> list[int]:
    """The ranks that `without_noise` finds after SIZED, with worths compared as they are."""
    price.index = 60
    tensors = [torch.tensor(worth) for worth in worths]
    return price.without_noise(tensors, tensors)


def test_a_layer_is_judged_no_more_once_it_has_given_noise_back():
    """What stands behind the cliff of a layer without noise is signal: a rank of 2 beside 40. There
    is no room for more ranks.
    """
    price, noise = auction(target_rank=6, max_rank=6, start_rank=6), [1e-4] * 4
    worths = [[9.0, 0.5, *noise], 6 * [9.0], 6 * [9.0]]
    assert settled(price, worths) == [2, 6, 6]
    assert price.cleaned == [2, None, None]
    worths[0] = [9.0, 0.01, 1e-4]  # the rank follows its target bit by bit
    assert settled(price, worths) == [2, 6, 6]
    worths[2] = [9.0, *[0.01] * 3]
    assert settled(price, worths) == [2, 6, 1]


def test_the_room_of_noise_goes_to_the_layer_that_loses_most_without_it():
    """12 positions are allowed; the third layer's next ones would be worth most."""
    price = auction(target_rank=4)
    worths = [[9.0, 0.5, *[1e-5] * 3], [9.0, 4.0, 1.0, 0.3], [9.0, 8.0, 7.0, 6.0]]
    assert settled(price, worths) == [2, 4, 6]
    assert price.cleaned == [2, None, None]


def test_noise_is_told_by_what_its_layer_has_lost():
    """One position is left behind a cliff: far above those that the size took, or like them."""
    worths, price = [[9.0, 0.01], [9.0] * 4, [9.0] * 4], auction(target_rank=4)
    for lost, found in (([], None), ([1e-5] * 4, None), ([0.01, 0.009], 1)):
        price.lost[0] = lost
        settled(price, worths)
        assert price.cleaned == [found, None, None]


def test_noise_stays_where_nothing_is_worth_much_more():
    """The fourth position of the second layer would be worth 0.01, not CLIFF times the noise."""
    price = auction(target_rank=4)
    worths = [[9.0, 0.5, 0.01, 0.01], [9.0, 1.0, 0.1, 0.03], [9.0, 1.0, 0.1, 0.03]]
    assert settled(price, worths) == [4, 4, 4] and price.cleaned == [None, None, None]


def test_nothing_is_added_where_a_tolerance_asks_for_small_files():
    price = auction(target_rank=4, tolerance=0.1)
    worths = [[9.0, 0.5, 1e-5, 1e-5], [9.0, 4.0, 3.0, 2.0], [9.0, 8.0, 7.0, 6.0]]
    assert settled(price, worths) == [1, 4, 4]


def test_a_rank_that_a_review_has_added_is_there_at_once():
    price = auction(target_rank=4)
    price.targets = price.adapters.rate_parameter.detach() - 0.2
    price.lowest = price.lowest.minimum(price.targets)
    price.review(Stopped(price.adapters, {}), 1.0)
    torch.testing.assert_close(price.adapters.rate_parameter.detach(), price.targets)


def test_rates_stay_between_the_first_ones_and_the_targets():
    price = auction()
    rates = price.adapters.rate_parameter
    start = rates.detach().clone()
    price.targets = start + torch.tensor([0.5, 0.5, 0.5])
    rates.data += torch.tensor([0.7, 0.2, -0.3])
    price.review(Stopped(price.adapters, {}), 1.0)
    expected = start + torch.tensor([0.5, 0.2, 0.0])
    torch.testing.assert_close(rates.detach(), expected)


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
