"""Training: the order of ranks is learned, the paper's equations hold, and a run is repeatable."""

import math
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

import lora2_core as lora2
from lora2_core.ranks.modes import MODES, PAPER_WEIGHT, RATE_TRAVEL
from lora2_core.ranks.rank import rate_for
from lora2_core.training import run as training_run
from lora2_core.training.auction import PRICES
from lora2_core.training.run import Run
from tests.benchmarks.ranks.statistics import spearman
from tests.tiers import each_once
from tests.toys import Planted, global_randomness_untouched, trained

PLANTED = [12, 1, 6, 3, 20]
WEIGHT_DECAY = MODES["adaptive"].defaults.weight_decay


@pytest.fixture(scope="module")
def adaptive() -> lora2.Adapters:
    """A run of a few seconds with room for the planted ranks and hardly more."""
    model = Planted(PLANTED, width=48, noise=0.2)
    settings = lora2.RankSettings(target_rank=9, max_rank=48)
    adapters = lora2.attach(model, "l", settings)
    for _ in lora2.train(adapters, model.loss, lora2.TrainSettings(500, 1e-2)):
        pass
    return adapters


def test_adaptive_learns_the_planted_ranks(adaptive: lora2.Adapters):
    assert list(adaptive.ranks.values()) == PLANTED
    assert list(lora2.finish(adaptive).ranks.values()) == PLANTED


def test_the_order_is_learned_without_noise_too():
    """Where no noise says what is too much, layers keep more, in the order of what they need."""
    model = Planted(PLANTED, width=48)
    adapters = lora2.attach(model, "l", lora2.RankSettings(target_rank=9, max_rank=48))
    for _ in lora2.train(adapters, model.loss, lora2.TrainSettings(500, 1e-2)):
        pass
    final = list(lora2.finish(adapters).ranks.values())
    assert spearman(final, PLANTED) >= 0.9, final


@pytest.mark.parametrize("steps", [1, 2, 7, 39])
def test_the_shortest_runs_work_and_respect_the_ceiling(steps: int):
    """Reviews come at every step there, or not at all."""
    adapters = trained(steps=steps, target_rank=3)
    assert all(torch.isfinite(v).all() for v in everything(adapters))
    assert lora2.finish(adapters).parameters <= adapters.ceiling


def learning_rates(monkeypatch, mode: str, decay: float | None) -> list[tuple[float, ...]]:
    """Of the weights and of the rates, at each of ten steps."""
    made, make = [], training_run.make_optimizer

    def keep(*args):
        made.append(make(*args))
        return made[-1]

    monkeypatch.setattr(training_run, "make_optimizer", keep)
    model = Planted([1, 2], width=8)
    settings = lora2.RankSettings(mode=mode, target_rank=2, max_rank=4, rate_learning_rate=1e-3)
    adapters = lora2.attach(model, "l", settings)
    steps = lora2.train(adapters, model.loss, lora2.TrainSettings(10, 1e-2, decay=decay))
    return [tuple(group["lr"] for group in made[0].param_groups) for _ in steps]


@pytest.mark.parametrize(
    ("mode", "decay", "falls"),
    [
        ("paper", None, 0), ("paper", 0.0, 0), ("paper", 0.5, 5), ("adaptive", None, 5),
        ("adaptive", 0.0, 0), ("adaptive", 1.0, 10), ("fixed", None, 5), ("fixed", 0.2, 2),
    ],
)  # fmt: skip
def test_the_learning_rate_falls_to_zero_over_the_last_share(monkeypatch, mode, decay, falls):
    """That of the weights alone; in the paper's mode it stays unless it is asked to fall."""
    found = learning_rates(monkeypatch, mode, decay)
    assert len(found) == 10
    expected = [1e-2 * min(1, (10 - i) / max(falls, 1)) for i in range(10)]
    assert [rates[0] for rates in found] == pytest.approx(expected)
    assert all(rates[1:] == ((1e-3,) if mode != "fixed" else ()) for rates in found)


@pytest.mark.parametrize("mode", ["adaptive", "paper", "fixed"])
def test_a_layer_that_is_never_called_harms_nothing(mode: str, tmp_path):
    """Models have layers that some inputs pass by: no gradient, no moments, no worth."""
    model = Planted([3, 1, 2], width=16, noise=0.2)
    unused = nn.Linear(16, 16)
    model.add_module("l_unused", unused)

    def loss(generator: torch.Generator) -> Tensor:
        children = list(model.children())[:3]
        total = torch.zeros(())
        for layer, delta in zip(children, model.planted, strict=True):
            x = torch.randn(16, 16, generator=generator)
            total = total + (layer(x) - x @ (layer.weight + delta).T).square().mean()
        return total

    settings = lora2.RankSettings(mode=mode, target_rank=4, max_rank=16)
    adapters = lora2.attach(model, "l", settings)
    losses = [s.loss for s in lora2.train(adapters, loss, lora2.TrainSettings(120, 1e-2))]
    assert all(map(math.isfinite, losses)) and losses[-1] < 0.5 * losses[0]
    assert all(torch.isfinite(v).all() for v in everything(adapters))
    assert not adapters.components["l_unused"].lora_up.any()
    if mode == "adaptive":
        assert adapters.worths["l_unused"] == 0 < min(adapters.worths[f"l{i}"] for i in range(3))
    lora2.save(tmp_path / "a.safetensors", adapters)
    assert not lora2.load(tmp_path / "a.safetensors").layers["l_unused"].delta().any()


def test_finish_respects_the_ceiling(adaptive: lora2.Adapters):
    final = lora2.finish(adaptive)
    assert final.parameters <= adaptive.ceiling
    assert final.mean_rank <= 9
    assert final.origin.learned.ranks == adaptive.ranks


@pytest.mark.parametrize("megabytes", [0.0001, 0.0005, 0.001])
def test_finish_respects_a_budget_in_megabytes(megabytes: float):
    final = lora2.finish(trained(budget_mb=megabytes))
    assert 0 < final.megabytes() <= megabytes


@pytest.mark.parametrize("target", [1, 3, 16])
def test_fixed_keeps_its_rank(target: int):
    adapters = trained("fixed", target_rank=target)
    assert set(adapters.ranks.values()) == {target}
    assert set(lora2.finish(adapters).ranks.values()) == {target}
    assert (adapters.weights == 1).all(), "plain LoRA: no importance"
    component = next(iter(adapters.components.values()))
    component.module(torch.ones(1, component.fan_in)).sum().backward()
    assert component.lora_up.grad is not None and adapters.rate_parameter.grad is None


class ByHand:
    """The paper's method on one layer, written out: f, L_rec, L_rank, Adam."""

    def __init__(self, adapters: lora2.Adapters, target: int, lr: float):
        (component,) = adapters.components.values()
        self.rank, self.weight = component.rank, component.module.weight
        values = component.lora_up, component.lora_down, adapters.rate_parameter
        self.b, self.a, self.nu = (v.detach().clone().requires_grad_() for v in values)
        self.target_rate, self.lr = -math.log(1 - 0.9) / target, lr
        self.moments = [(torch.zeros_like(v), torch.zeros_like(v)) for v in values]
        self.steps = 0

    def update(self) -> Tensor:
        delta = torch.zeros_like(self.weight)
        for i in range(self.rank):
            f = torch.exp(-self.nu * i) - torch.exp(-self.nu * (i + 1))
            delta = delta + f * torch.outer(self.b[:, i], self.a[i])
        return delta

    def loss_rec(self, model: Planted, generator: torch.Generator) -> Tensor:
        x = torch.randn(16, model.l0.in_features, generator=generator)
        y = x @ (self.weight + self.update()).T
        return (y - x @ (self.weight + model.planted[0]).T).square().mean()

    def loss_rank(self) -> Tensor:
        return (self.nu - self.target_rate).abs().sum()

    @torch.no_grad()
    def adam(self, gradients: tuple[Tensor, ...]) -> None:
        self.steps += 1
        pairs = zip((self.b, self.a, self.nu), gradients, self.moments, strict=True)
        for value, gradient, (m, v) in pairs:
            m.mul_(0.9).add_(0.1 * gradient)
            v.mul_(0.999).add_(0.001 * gradient**2)
            m_hat, v_hat = m / (1 - 0.9**self.steps), v / (1 - 0.999**self.steps)
            value -= self.lr * m_hat / (v_hat.sqrt() + 1e-8)


def test_paper_mode_is_the_equations_step_by_step():
    model = Planted([3], width=12)
    settings = lora2.RankSettings(mode="paper", target_rank=4, start_rank=6, max_rank=12)
    adapters = lora2.attach(model, "l", settings)
    hand = ByHand(adapters, target=4, lr=5e-5)
    generator = torch.Generator().manual_seed(0)
    (component,) = adapters.components.values()
    price = PRICES["paper"](adapters, 5)
    for step in lora2.train(adapters, model.loss, lora2.TrainSettings(5, 5e-5, seed=0)):
        rec, rank = hand.loss_rec(model, generator), hand.loss_rank()
        if step.index == 1:
            (to_nu,) = torch.autograd.grad(rec, hand.nu, retain_graph=True)
            assert (to_nu == 0).all(), "B = 0 leaves nu nothing to learn from L_rec"
        gradients = torch.autograd.grad(rec + 1e-4 * rank, (hand.b, hand.a, hand.nu))
        hand.adam(gradients)
        assert step.loss == pytest.approx(rec.item(), rel=1e-5)
        expected = 1e-4 * hand.loss_rank().item()
        assert price.penalty(rec).item() == pytest.approx(expected, rel=1e-5)
        assert step.ranks == {"l0": 6}
        values = component.lora_up, component.lora_down, adapters.rate_parameter
        for expected, found in zip((hand.b, hand.a, hand.nu), values, strict=True):
            torch.testing.assert_close(found, expected, rtol=1e-5, atol=2e-6)


def test_the_papers_rates_get_exactly_nothing_from_the_loss_while_lora_up_is_zero():
    model = Planted([2, 5])
    adapters = lora2.attach(model, "l", lora2.RankSettings(mode="paper", target_rank=8))
    model.loss(torch.Generator()).backward()
    assert (adapters.rate_parameter.grad == 0).all()
    assert all(c.lora_up.grad.abs().sum() > 0 for c in adapters.components.values())


def test_the_papers_penalty_counts_every_layer_and_can_be_weighed():
    settings = {"mode": "paper", "target_rank": 4, "start_rank": 8}
    adapters = lora2.attach(Planted([1, 1, 1]), "l", lora2.RankSettings(**settings))
    distance = 3 * abs(rate_for(8) - rate_for(4))
    loss = torch.tensor(1.0)
    penalty = PRICES["paper"](adapters, 1).penalty(loss)
    assert penalty.item() == pytest.approx(PAPER_WEIGHT * distance, rel=1e-5)
    weighed = lora2.RankSettings(**settings, rank_weight=0.5)
    adapters = lora2.attach(Planted([1, 1, 1]), "l", weighed)
    penalty = PRICES["paper"](adapters, 1).penalty(loss)
    assert penalty.item() == pytest.approx(0.5 * distance, rel=1e-5)


@pytest.mark.parametrize(("weight", "share"), [(None, PAPER_WEIGHT), (0.25, 0.25), (0.0, 0.0)])
def test_attention_entropy_is_part_of_the_papers_loss(weight: float | None, share: float):
    """With a loss of zero from the layer, what its lora_up learns comes from L_attn alone."""
    torch.manual_seed(0)
    model, keys = Planted([2]), torch.randn(7, 32)
    settings = lora2.RankSettings(mode="paper", target_rank=4, attention_weight=weight)
    adapters, record = lora2.attach(model, "l", settings), lora2.EntropyRecord()
    (component,) = adapters.components.values()

    def loss(generator: torch.Generator) -> Tensor:
        q = model.l0(torch.randn(5, 32, generator=generator))
        record.record(q, keys)
        return 0 * q.sum()

    found = []
    component.lora_up.register_hook(found.append)
    next(lora2.train(adapters, loss, lora2.TrainSettings(1, 1e-3), attention=record))
    q = model.l0.weight @ torch.randn(5, 32, generator=torch.Generator().manual_seed(0)).T
    q = q.T.detach().requires_grad_()
    lora2.attention_entropy(q, keys).backward()
    assert (found[0].abs().sum() > 0) == (share > 0)
    x = torch.randn(5, 32, generator=torch.Generator().manual_seed(0))
    before = lora2.attach(Planted([2]), "l", settings)  # the same seed, so the same lora_down
    down = next(iter(before.folded().values()))[1]
    expected = share * q.grad.T @ (x @ down.T)
    torch.testing.assert_close(found[0][:, : component.rank], expected, rtol=1e-3, atol=1e-7)


def payload_hash(adapters: lora2.Adapters, folder) -> str:
    lora2.save(folder / "a.safetensors", adapters)
    return lora2.load(folder / "a.safetensors").origin.file.metadata["sshs_model_hash"]


def test_gradients_take_no_memory_between_steps_and_none_is_left_of_a_broken_step(tmp_path: Path):
    hashes = []
    for broken in (False, True):
        model = Planted([2, 5])
        adapters = lora2.attach(model, "l", lora2.RankSettings(target_rank=4))
        run = Run(adapters, lora2.TrainSettings(3, 1e-3))
        next(run.steps(model.loss))
        assert all(p.grad is None for p in run.optimizer.weights)
        if broken:  # as an error after backward() leaves them
            for parameter in run.optimizer.weights:
                parameter.grad = torch.ones_like(parameter)
        list(run.steps(model.loss))
        hashes.append(payload_hash(adapters, tmp_path))
    assert hashes[0] == hashes[1]


@pytest.mark.parametrize("mode", ["adaptive", "paper", "fixed"])
def test_the_same_seed_gives_the_same_bytes(mode: str, tmp_path):
    first, second, other = (payload_hash(trained(mode, seed=s), tmp_path) for s in (5, 5, 6))
    assert first == second
    assert first != other


def test_global_randomness_plays_no_part(tmp_path):
    torch.manual_seed(1)
    first = payload_hash(trained(), tmp_path)
    torch.manual_seed(2)
    with global_randomness_untouched():
        assert payload_hash(trained(), tmp_path) == first
        trained("paper").detach()


def everything(adapters: lora2.Adapters) -> list[Tensor]:
    parts = [p for c in adapters.components.values() for p in (c.lora_up, c.lora_down)]
    return [t.detach().clone() for t in (*parts, adapters.rate_parameter, adapters.weights)]


def broken(model: Planted, kind: str) -> Tensor:
    loss = model.loss(torch.Generator().manual_seed(0))
    if kind == "gradient":  # the loss itself is finite: sqrt has no slope at zero
        return (loss * 0).sqrt()
    return loss * float(kind)


@pytest.mark.parametrize(
    ("mode", "kind"), each_once(["adaptive", "paper", "fixed"], ["nan", "inf", "gradient"])
)
def test_a_step_without_a_finite_loss_changes_nothing_and_five_end_the_run(mode: str, kind: str):
    model, calls = Planted([1, 4], width=16), []

    def loss(generator: torch.Generator) -> Tensor:
        calls.append(None)
        return broken(model, kind) if len(calls) > 3 else model.loss(generator)

    adapters = lora2.attach(model, "l", lora2.RankSettings(mode=mode, target_rank=4, max_rank=16))
    steps = lora2.train(adapters, loss, lora2.TrainSettings(50, 1e-2))
    for _ in range(3):
        next(steps)
    values, ranks = everything(adapters), adapters.ranks
    for index in range(4, 8):
        assert next(steps).index == index
        assert all(map(torch.equal, everything(adapters), values))
        assert adapters.ranks == ranks
    with pytest.raises(lora2.TrainingDiverged, match=r"5 steps in a row \(step 8\)"):
        next(steps)
    assert len(calls) == 8
    assert all(map(torch.equal, everything(adapters), values))
    assert all(torch.isfinite(v).all() for v in values)
    lora2.finish(adapters)  # the last good values can still be used


def test_a_good_step_starts_the_count_anew_and_learns_as_if_nothing_had_been():
    model, calls = Planted([1, 4], width=16), []

    def loss(generator: torch.Generator) -> Tensor:
        calls.append(None)
        return broken(model, "nan") if len(calls) % 5 else model.loss(generator)

    settings = lora2.RankSettings(target_rank=4, max_rank=16)
    adapters = lora2.attach(model, "l", settings)
    run = lora2.TrainSettings(20, 1e-2, decay=0.0)
    losses = [s.loss for s in lora2.train(adapters, loss, run)]
    calm = Planted([1, 4], width=16)
    plain = lora2.attach(calm, "l", settings)
    good = [s.loss for _, s in zip(range(4), lora2.train(plain, calm.loss, run), strict=False)]
    assert len(losses[4::5]) == 4 and losses[4::5] == good
    assert all(map(torch.equal, everything(adapters), everything(plain)))


def test_a_step_reports_the_size_of_its_ranks():
    model = nn.ModuleDict({"a": nn.Linear(10, 20), "b": nn.Linear(5, 3)})
    adapters = lora2.attach(model, "a|b", lora2.RankSettings(mode="fixed", target_rank=4))
    x = torch.randn(2, 10)
    step = next(lora2.train(adapters, lambda _: model["a"](x).square().mean()))
    assert step.ranks == {"a": 4, "b": 3}
    assert step.mean_rank == (4 * 30 + 3 * 8) / (30 + 8)
    assert step.megabytes == pytest.approx(2 * (4 * 30 + 3 * 8) / 1e6)


def test_leaving_early_keeps_what_was_learned():
    model = Planted([1, 4])
    adapters = lora2.attach(model, "l", lora2.RankSettings(target_rank=4))
    for step in lora2.train(adapters, model.loss, lora2.TrainSettings(100, 1e-2)):
        if step.index == 3:
            break
    assert any(up.abs().sum() > 0 for up, _ in adapters.folded().values())
    lora2.finish(adapters)


def test_the_frozen_weights_get_no_gradients_and_the_rates_no_weight_decay():
    adapters = trained()
    settings = lora2.TrainSettings(100, 1e-3).resolved(MODES["adaptive"])
    optimizer = training_run.make_optimizer(adapters, settings)
    weights, rates = (g["weight_decay"] for g in optimizer.param_groups)
    shrunk = math.prod(1 - rate * weights for rate in settings.rates())
    assert shrunk == pytest.approx(math.exp(-WEIGHT_DECAY), rel=0.05) and rates == 0
    assert optimizer.param_groups[1]["params"] == [adapters.rate_parameter]
    assert [g["lr"] for g in optimizer.param_groups] == [1e-3, RATE_TRAVEL / 100]
    assert all(c.module.weight.grad is None for c in adapters.components.values())
