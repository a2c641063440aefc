"""Adapters grow and shrink in place: no parameter is replaced, no output jumps, no moment stays."""

import copy

import pytest
import torch
from torch import nn

import lora2_core as lora2
from lora2_core.ranks.rank import rate_for
from lora2_core.training import run as training
from lora2_core.units import BYTES_PER_PARAMETER, MEGABYTE
from tests.toys import Planted, trained


def move_to(adapters: lora2.Adapters, *ranks: float) -> None:
    """Sets the rates to those of the given ranks, without following them yet."""
    rates = torch.tensor([rate_for(rank, adapters.settings.quantile) for rank in ranks])
    adapters.rate_parameter.data = adapters.mode.parameter_of(rates)
    adapters.refresh()


def outputs(adapters: lora2.Adapters) -> list[torch.Tensor]:
    x = torch.randn(5, 16, generator=torch.Generator().manual_seed(3))
    return [component.module(x) for component in adapters.components.values()]


@pytest.mark.parametrize("mode", ["adaptive", "paper", "fixed"])
def test_ranks_start_at_the_first_rank_or_what_a_layer_can_hold(mode: str):
    model = nn.ModuleDict({"wide": nn.Linear(40, 40), "narrow": nn.Linear(40, 3)})
    settings = lora2.RankSettings(mode=mode, target_rank=8, start_rank=8)
    adapters = lora2.attach(model, "wide|narrow", settings)
    assert adapters.ranks == {"wide": 8, "narrow": 3}
    assert adapters.parameters == 8 * 80 + 3 * 43


@pytest.mark.parametrize("mode", ["adaptive", "paper"])
def test_the_rates_are_one_fp32_vector_that_gives_the_ranks(mode: str):
    adapters = trained(mode, steps=1)
    assert adapters.rate_parameter.shape == (3,)
    assert adapters.rate_parameter.dtype == torch.float32
    move_to(adapters, 3, 16, 1)
    adapters.follow_rates()
    assert list(adapters.ranks.values()) == [3, 16, 1]


def test_growth_keeps_the_output():
    adapters = trained()
    move_to(adapters, 4, 4, 4)
    adapters.follow_rates()
    move_to(adapters, 9, 16, 5)  # Lambda of the new rates, the ranks of the old ones
    before = outputs(adapters)
    grown = adapters.follow_rates()
    assert [(old, new) for _, old, new in grown] == [(4, 9), (4, 16), (4, 5)]
    for old, new in zip(before, outputs(adapters), strict=True):
        torch.testing.assert_close(new, old, rtol=0, atol=1e-6)
    for component, old, new in grown:
        assert (component.lora_up[:, old:new] == 0).all()
        assert component.lora_down[old:new].std() > 0


def test_positions_that_come_back_are_new_ones():
    """What a layer learned beyond its rank is gone once the rank was given back."""
    adapters = trained(target_rank=8)
    (component, *_) = adapters.components.values()
    move_to(adapters, 2, 2, 2)
    adapters.follow_rates()
    component.lora_up.data[:, 2:] = 7.0
    move_to(adapters, 6, 2, 2)
    adapters.follow_rates()
    assert (component.lora_up[:, 2:6] == 0).all()


def test_the_papers_growth_is_random_in_both():
    adapters = trained("paper")
    move_to(adapters, 4, 4, 4)
    adapters.follow_rates()
    move_to(adapters, 8, 4, 4)
    ((component, old, new),) = adapters.follow_rates()
    assert (component.lora_up[:, old:new] != 0).all()
    assert (component.lora_down[old:new] != 0).all()


def test_shrinking_cuts_the_tail():
    adapters = trained("paper", target_rank=8)
    move_to(adapters, 7, 7, 7)
    adapters.follow_rates()
    move_to(adapters, 3, 7, 1)  # Lambda moves before the rank does
    for component in adapters.components.values():
        component.rank = 7
    before = adapters.folded()
    values = [c.lora_up.detach().clone() for c in adapters.components.values()]
    assert adapters.follow_rates() == []
    for name, (up, down) in adapters.folded().items():
        rank = adapters.ranks[name]
        assert torch.equal(up, before[name][0][:, :rank])
        assert torch.equal(down, before[name][1][:rank])
    for component, value in zip(adapters.components.values(), values, strict=True):
        assert torch.equal(component.lora_up, value), "shrinking touches no value"


def optimizer_moves_to(adapters: lora2.Adapters, *ranks: float) -> None:
    """The rates of the given ranks, as a step leaves them: Lambda is still the old one."""
    rates = torch.tensor([rate_for(rank, adapters.settings.quantile) for rank in ranks])
    adapters.rate_parameter.data = rates.log()


def test_the_update_stays_while_the_rates_move():
    """Growing, shrinking and staying; a layer that shrinks loses its tail and nothing else."""
    adapters = trained()
    move_to(adapters, 6, 6, 6)
    adapters.follow_rates()
    generator = torch.Generator().manual_seed(4)
    for component in adapters.components.values():
        component.lora_up.data.normal_(0, 0.3, generator=generator)
    before = adapters.folded()
    optimizer_moves_to(adapters, 12, 6.3, 2.8)
    adapters.follow_rates()
    assert list(adapters.ranks.values()) == [12, 6, 3]
    for name, (up, down) in adapters.folded().items():
        kept = min(6, adapters.ranks[name])
        expected = before[name][0][:, :kept] @ before[name][1][:kept]
        torch.testing.assert_close(up @ down, expected, rtol=0, atol=1e-5)
        adapters.refresh()  # as the next step does: the same weights again
        assert torch.equal(adapters.folded()[name][1], down)


def test_a_layer_can_be_given_up_and_come_back():
    adapters = trained()
    move_to(adapters, 4, 4, 4)
    adapters.follow_rates()
    optimizer_moves_to(adapters, 4, 0.3, 4)
    assert adapters.follow_rates() == []
    assert list(adapters.ranks.values()) == [4, 0, 4]
    assert adapters.parameters == 2 * 4 * 32
    up, down = adapters.folded()["l1"]
    assert up.shape == (16, 0) and down.shape == (0, 16)
    plain = outputs(adapters)[1]
    optimizer_moves_to(adapters, 4, 2, 4)
    ((component, old, new),) = adapters.follow_rates()
    assert (old, new) == (0, 2)
    assert torch.equal(outputs(adapters)[1], plain)
    assert (component.lora_up[:, :2] == 0).all() and component.lora_down[:2].std() > 0
    assert all(torch.isfinite(w).all() for w in adapters.weights)


@pytest.mark.parametrize("rank", [1, 3, 16])
def test_every_layer_moves_as_far_as_plain_lora_of_the_mean_rank(rank: int):
    """The squares of Lambda add up to the mean rank that the ceiling allows."""
    adapters = trained(target_rank=5)
    move_to(adapters, rank, 4, 9)
    adapters.follow_rates()
    for weights, own in zip(adapters.weights, adapters.ranks.values(), strict=True):
        used = weights[:own].detach()
        assert float(used.square().sum()) == pytest.approx(5, rel=1e-5)


def test_turning_all_layers_changes_no_output():
    adapters = trained(steps=1)
    weights = [p for c in adapters.components.values() for p in (c.lora_up, c.lora_down)]
    optimizer = torch.optim.Adam(weights, 1e-2)
    for _ in range(3):
        optimizer.zero_grad()
        adapters.refresh()
        sum(y.square().mean() for y in outputs(adapters)).backward()
        optimizer.step()
    before = outputs(adapters)
    state = {p: {k: v.data_ptr() for k, v in optimizer.state[p].items()} for p in weights}
    adapters.turn(adapters.singular_turns(), optimizer)
    for old, new in zip(before, outputs(adapters), strict=True):
        torch.testing.assert_close(new, old, rtol=0, atol=1e-5)
    for parameter, places in state.items():
        assert {k: v.data_ptr() for k, v in optimizer.state[parameter].items()} == places
        assert float(optimizer.state[parameter]["step"]) == 3


def test_fixed_ranks_do_not_move():
    adapters = trained("fixed")
    move_to(adapters, 9, 9, 9)
    assert adapters.follow_rates() == []
    assert set(adapters.ranks.values()) == {4}


def test_a_rate_that_steps_across_zero_comes_back():
    adapters = trained("paper")
    adapters.rate_parameter.data.fill_(-1e-3)
    adapters.follow_rates()
    assert (adapters.rates > 0).all()
    assert set(adapters.ranks.values()) == {16}


@pytest.mark.parametrize("mode", ["adaptive", "paper"])
def test_only_new_positions_lose_their_moments(monkeypatch, mode):
    """Train at rank 12, shrink to 4, grow to 10: positions 4 to 9 start with zero moments. All
    before the first review.
    """
    made, make = [], training.make_optimizer
    monkeypatch.setattr(
        training, "make_optimizer", lambda *args: made.append(make(*args)) or made[0]
    )
    model = Planted([6], width=16)
    settings = lora2.RankSettings(
        mode=mode, target_rank=12, max_rank=16, start_rank=12, rate_learning_rate=1e-4
    )
    adapters = lora2.attach(model, "l", settings)
    (component,) = adapters.components.values()
    steps = lora2.train(adapters, model.loss, lora2.TrainSettings(1000, 1e-3))
    for _ in range(3):
        next(steps)
    (optimizer,) = made
    assert adapters.ranks == {"l0": 12}

    def moments() -> list[torch.Tensor]:
        states = [optimizer.state[p] for p in (component.lora_up, component.lora_down)]
        up, down = ([s[k] for k in ("exp_avg", "exp_avg_sq")] for s in states)
        return [*(m.T for m in up), *down]  # positions first

    assert all((m[:12] != 0).any(1).all() for m in moments())
    for rank in (4, 10):
        with torch.no_grad():
            off = 0.0 if adapters.mode.competes else 0.5  # one rule rounds, the other rounds up
            target = torch.tensor([rate_for(rank - off, settings.quantile)])
            adapters.rate_parameter.copy_(adapters.mode.parameter_of(target))
        next(steps)
        assert adapters.ranks == {"l0": rank}
        for moment in moments():
            assert (moment[:4] != 0).any(1).all(), "old positions keep theirs"
            assert rank == 4 or (moment[4:10] == 0).all()
            assert len(moment) == (8 if rank == 4 else 16), "whole tiles"
    parameters = [component.lora_up, component.lora_down, adapters.rate_parameter]
    assert [p for group in optimizer.param_groups for p in group["params"]] == parameters
    assert all(int(optimizer.state[p]["step"]) == 5 for p in parameters)
    next(steps)  # lora_up leaves zero
    next(steps)  # and lora_down gets a gradient
    assert all((m[4:10] != 0).any() for m in moments())


def test_folded_is_the_update_and_a_copy():
    adapters = trained()
    x = torch.randn(4, 16)
    with torch.no_grad():
        for (up, down), component in zip(
            adapters.folded().values(), adapters.components.values(), strict=True
        ):
            live = component.module(x) - x @ component.module.weight.T
            torch.testing.assert_close(x @ (up @ down).T, live, rtol=1e-4, atol=1e-5)
            up.zero_()
            assert component.lora_up.abs().sum() > 0


def test_folded_has_file_shapes_for_convolutions():
    adapters = lora2.attach(nn.ModuleDict({"c": nn.Conv2d(3, 5, (2, 3))}), "c")
    up, down = adapters.folded()["c"]
    assert up.shape == (5, 5, 1, 1) and down.shape == (5, 3, 2, 3)


def test_the_ceiling_is_the_target_rank_everywhere_or_the_budget():
    model = Planted([1, 1], width=16)
    by_rank = lora2.attach(model, "l", lora2.RankSettings(target_rank=5))
    assert by_rank.ceiling == 5 * 2 * 32
    by_size = lora2.attach(model, "l", lora2.RankSettings(budget_mb=0.001))
    assert by_size.ceiling * BYTES_PER_PARAMETER == 0.001 * MEGABYTE


LARGE = {"target_rank": 4096, "max_rank": 4096}


@pytest.mark.parametrize(
    ("size", "lines"), [({"budget_mb": 1e6}, ""), (LARGE, ""), (LARGE, "l0 = 9 target 8")]
)
def test_a_size_that_no_layers_can_fill_moves_them_no_faster(size: dict, lines: str):
    """As one that they just fill."""
    model = Planted([1, 1], width=16)
    fills = {"max_rank": 16, "start_rank": 4, "target_rank": 16, "layer_ranks": lines}
    found, wanted = (
        lora2.attach(model, "l", lora2.RankSettings(**fills | chosen)) for chosen in (size, {})
    )
    assert found.ceiling <= sum(c.cost * c.max_rank for c in found.components.values())
    assert torch.equal(found.weights, wanted.weights)


def test_detach_gives_the_module_back_and_keeps_what_was_learned():
    model = Planted([1, 4])
    state, x = copy.deepcopy(model.state_dict()), torch.randn(3, 32)

    def outputs() -> torch.Tensor:
        return torch.stack([layer(x) for layer in model.children()])

    before = outputs()
    adapters = lora2.attach(model, "l", lora2.RankSettings(target_rank=4))
    for _ in lora2.train(adapters, model.loss, lora2.TrainSettings(3, 1e-2)):
        pass
    learned = adapters.folded()
    adapters.detach()
    assert torch.equal(outputs(), before)
    assert all(torch.equal(model.state_dict()[k], v) for k, v in state.items())
    assert all(not layer._forward_hooks for layer in model.children())
    assert all(p.grad is None for p in model.parameters())
    for name, pair in adapters.folded().items():
        assert all(map(torch.equal, pair, learned[name]))


def test_targets_choose_layers_by_dotted_name():
    block = nn.ModuleDict({"to_q": nn.Linear(4, 4), "to_out": nn.Sequential(nn.Linear(4, 4))})
    model = nn.ModuleDict({"attn": block, "to_queue": nn.Linear(4, 4), "norm": nn.LayerNorm(4)})
    assert list(lora2.attach(model).components) == ["attn.to_q", "attn.to_out.0"]
    assert list(lora2.attach(model, "norm|queue").components) == ["to_queue"]


@pytest.mark.parametrize(
    ("targets", "message"),
    [("nothing", "match no Linear or Conv2d"), ("to_(q", "not a regular expression")],
)
def test_targets_that_choose_nothing_are_refused(targets: str, message: str):
    with pytest.raises(ValueError, match=message) as caught:
        lora2.attach(Planted([1]), targets)
    assert repr(targets) in str(caught.value)


def test_adaptive_layers_start_with_orthogonal_rows_of_an_ordinary_loras_norm():
    model = nn.ModuleDict({"a": nn.Linear(64, 48), "c": nn.Conv2d(8, 40, 3)})
    adapters = lora2.attach(model, "a|c", lora2.RankSettings(target_rank=4))
    for component in adapters.components.values():
        rows = component.lora_down[: component.rank].detach()
        assert component.rank == 24
        gram = rows @ rows.T
        torch.testing.assert_close(gram, gram.diagonal().diag(), rtol=0, atol=1e-6)
        assert gram.diagonal().mean() == pytest.approx(1 / 3, rel=0.1)
