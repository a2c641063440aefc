"""Every optimizer trains, ranks move beneath those that can follow, and running means are exact."""

import math

import pytest
import torch
from torch import Tensor

import lora2_core as lora2
from lora2_core.adapter.singular import singular_turn
from lora2_core.files.metadata import optimizer_entry
from lora2_core.layers.layer import Component
from lora2_core.layers.moments import exchanged, moments_of
from lora2_core.layers.rescaling import rescale
from lora2_core.ranks import modes
from lora2_core.training import optimizers
from lora2_core.training.auction import squared_gradients
from lora2_core.training.optimizers import check_optimizer
from lora2_core.training.run import make_optimizer
from tests.tiers import each_once, fast
from tests.toys import Planted, trained

RATES = {
    "adamw": 1e-2,
    "adam": 1e-2,
    "sgd": 0.1,
    "adafactor": 0.3,
    "prodigy": 1.0,
    "adamw8bit": 1e-2,
}
MODES = ("adaptive", "paper", "fixed")
PLANTED = [12, 1, 6]


def installed(name: str) -> None:
    """Skips where an optimizer's own package is missing; nox -s tests brings all of them."""
    if package := optimizers.PACKAGES.get(name):
        pytest.importorskip(package)


def run(name: str, mode: str, steps: int = 200, **chosen) -> tuple[lora2.Adapters, list[float]]:
    """A short training of planted ranks."""
    installed(name)
    model = Planted(PLANTED, width=32, noise=0.2)
    settings = lora2.RankSettings(mode=mode, target_rank=7, max_rank=32)
    adapters = lora2.attach(model, "l", settings)
    training = lora2.TrainSettings(steps, RATES[name], optimizer=name, **chosen)
    return adapters, [s.loss for s in lora2.train(adapters, model.loss, training)]


def make(mode: str = "fixed", **chosen):
    """Adapters of a Planted model and an optimizer over them."""
    model = Planted([2, 3], width=16)
    settings = lora2.RankSettings(mode=mode, target_rank=4, max_rank=16, rate_learning_rate=0.0)
    adapters = lora2.attach(model, "l", settings)
    training = lora2.TrainSettings(**{"steps": 10, "learning_rate": 1e-2} | chosen).resolved(
        modes.MODES[mode]
    )
    return model, adapters, make_optimizer(adapters, training)


def factors(component: Component) -> tuple[Tensor, Tensor]:
    return component.lora_up, component.lora_down


def step(model: Planted, adapters: lora2.Adapters, optimizer, seed: int = 0) -> None:
    optimizer.zero_grad()
    adapters.refresh()
    model.loss(torch.Generator().manual_seed(seed)).backward()
    optimizer.step()


CASES = [(n, m) for n in RATES for m in MODES]


@pytest.mark.parametrize(
    "case", fast(CASES, *(c for c in CASES if c[1] == "fixed"), ("adamw", "paper")), ids="-".join
)
def test_every_optimizer_learns(case: tuple[str, str]):
    """In adaptive mode the next test tells more."""
    name, mode = case
    adapters, losses = run(name, mode)
    assert all(map(math.isfinite, losses))
    share = 0.9 if mode == "paper" else 0.6  # it begins with small importances
    assert sum(losses[-10:]) < share * sum(losses[:10])
    if mode == "adaptive":
        assert lora2.finish(adapters).parameters <= adapters.ceiling


@pytest.mark.parametrize("name", RATES)
def test_ranks_are_learned_with_every_optimizer(name: str, monkeypatch):
    """Adafactor begins anew where positions turn, and leaves two positions of noise."""
    monkeypatch.setitem(RATES, "adafactor", 0.03)
    expected = [13, 2, 6] if name == "adafactor" else PLANTED
    assert list(run(name, "adaptive", 500)[0].ranks.values()) == expected


@pytest.mark.parametrize("name", optimizers.STILL)
def test_what_cannot_follow_is_forgotten_where_positions_turn(name: str):
    """What is ours follows: the mean squares of lora_up that the auction needs."""
    installed(name)
    model, adapters, optimizer = make("adaptive", optimizer=name, ema=0.9)
    for seed in range(3):
        step(model, adapters, optimizer, seed)
    component, *others = adapters.components.values()
    turns = {row: t for row, t in adapters.singular_turns().items() if row == 0}
    before = {k: v.clone() for k, v in moments_of(optimizer)(component.lora_up).items()}
    other = set(optimizer.state[others[0].lora_up])
    adapters.turn(turns, optimizer)
    assert optimizer.state[component.lora_up].keys() == {"exp_avg_sq", "ema"}
    assert optimizer.state[component.lora_down].keys() == {"ema"}
    assert set(optimizer.state[others[0].lora_up]) == other > {"exp_avg_sq", "ema"}
    turned = moments_of(optimizer)(component.lora_up)
    assert not torch.equal(turned["exp_avg_sq"], before["exp_avg_sq"])
    mean = turned["exp_avg_sq"].clone()
    step(model, adapters, optimizer, 3)
    now = optimizer.state[component.lora_up]
    assert now.keys() == other
    expected = mean.lerp(component.lora_up.grad.square(), 1 - optimizer.settings.beta2)
    torch.testing.assert_close(now["exp_avg_sq"], expected)


@pytest.mark.parametrize(("name", "package"), optimizers.PACKAGES.items())
def test_a_missing_package_is_named(monkeypatch, name: str, package: str):
    monkeypatch.setattr(optimizers, "find_spec", lambda package: None)
    with pytest.raises(ValueError, match=f"needs the package {package}, which is not inst") as e:
        check_optimizer(name)
    assert "pip install" in str(e.value) and "choose adamw" in str(e.value)


@pytest.mark.parametrize("name", RATES)
@pytest.mark.parametrize("schedule", ["late", "cosine"])
def test_weights_decay_alike_over_a_run(name: str, schedule: str):
    """Without gradients they shrink by e^-weight_decay, whatever the optimizer; adam has none."""
    installed(name)
    _, adapters, optimizer = make(optimizer=name, steps=200, learning_rate=1.0, schedule=schedule)
    (down, *_) = (c.lora_down for c in adapters.components.values())
    before = down.detach().norm()
    for rate in optimizer.settings.rates():
        optimizer.param_groups[0]["lr"] = rate
        for parameter in optimizer.weights:
            parameter.grad = torch.zeros_like(parameter)
        optimizer.step()
    expected = 1.0 if name == "adam" else math.exp(-1.5)
    assert float(down.detach().norm() / before) == pytest.approx(expected, rel=0.02)


def test_adam_refuses_a_weight_decay():
    with pytest.raises(ValueError, match="weight_decay is 0.5, but adam has none: choose adamw"):
        lora2.TrainSettings(optimizer="adam", weight_decay=0.5)


@pytest.mark.parametrize("most", [1e-3, 1e3])
def test_the_gradient_of_the_weights_is_cut_to_a_norm(most: float):
    """Rates have no part in it: their gradient is as large as it was."""
    chosen = {"optimizer": "sgd", "beta1": 0.0, "weight_decay": 0.0, "max_norm": most}
    model, adapters, optimizer = make("adaptive", **chosen)
    before = [p.detach().clone() for p in optimizer.weights]
    adapters.rate_parameter.grad = torch.full_like(adapters.rate_parameter, 100.0)
    model.loss(torch.Generator().manual_seed(0)).backward()
    gradients = [p.grad.clone() for p in optimizer.weights]
    norm = torch.stack([g.norm() for g in gradients]).norm()
    rates = adapters.rate_parameter.grad.clone()
    optimizer.step()
    scale = min(1.0, most / float(norm))
    for parameter, old, gradient in zip(optimizer.weights, before, gradients, strict=True):
        expected = old - 1e-2 * scale * gradient
        torch.testing.assert_close(parameter.detach(), expected, rtol=1e-4, atol=1e-9)
    assert torch.equal(adapters.rate_parameter.grad, rates)


def test_sgd_keeps_the_mean_squares_that_adam_keeps():
    chosen = {"beta1": 0.0, "weight_decay": 0.0}
    pairs = [make("adaptive", optimizer=name, **chosen) for name in ("sgd", "adamw")]
    for seed in range(3):
        for model, adapters, optimizer in pairs:
            optimizer.param_groups[0]["lr"] = 0.0  # the same weights, so the same gradients
            step(model, adapters, optimizer, seed)
    ours, adams = (
        squared_gradients(o, next(iter(a.components.values())).lora_up, 3) for _, a, o in pairs
    )
    assert ours.any()
    torch.testing.assert_close(ours, adams, rtol=1e-5, atol=0)
    assert all("exp_avg_sq" not in pairs[0][2].state[p] for p in pairs[0][2].weights[1::2])


def running_mean(values: list[Tensor], decay: float) -> Tensor:
    mean = values[0]
    for t, value in enumerate(values, start=1):
        d = min(decay, (1 + t) / (10 + t))
        mean = d * mean + (1 - d) * value
    return mean


@pytest.mark.parametrize(
    ("name", "decay", "end"), each_once(["adamw", "sgd", "adafactor"], [0.5, 0.99], [7, 20])
)
def test_the_weights_become_their_running_means(name: str, decay: float, end: int):
    model = Planted([2, 3], width=16)
    adapters = lora2.attach(model, "l", lora2.RankSettings(mode="fixed", target_rank=4))
    training = lora2.TrainSettings(20, 1e-2, optimizer=name, ema=decay)
    seen, steps = [], lora2.train(adapters, model.loss, training)
    for done in steps:
        seen.append([p.detach().clone() for c in adapters.components.values() for p in factors(c)])
        if done.index == end:
            steps.close()
    found = [p.detach() for c in adapters.components.values() for p in factors(c)]
    for value, history in zip(found, zip(*seen, strict=True), strict=True):
        torch.testing.assert_close(value, running_mean(list(history), decay))
    assert not torch.equal(found[0], seen[-1][0])


def mean_updates(adapters: lora2.Adapters, optimizer) -> list[Tensor]:
    """The update that the running means of a layer's two factors make, in fp64."""
    found, moments = [], moments_of(optimizer)
    for row, c in enumerate(adapters.components.values()):
        up, down = (moments(p)["ema"].double() for p in factors(c))
        weights = adapters.weights[row, : c.rank].detach().double()
        found.append(up[:, : c.rank] * weights @ down[: c.rank])
    return found


def test_running_means_follow_turns_new_rates_and_new_sizes():
    """What the means say of the update stays, as the update itself does."""
    model, adapters, optimizer = make("adaptive", ema=0.9)
    for seed in range(4):
        step(model, adapters, optimizer, seed)
    before = mean_updates(adapters, optimizer)
    assert all(update.norm() > 1e-6 for update in before)

    def unchanged() -> None:
        for old, new in zip(before, mean_updates(adapters, optimizer), strict=True):
            torch.testing.assert_close(new, old, rtol=1e-4, atol=1e-6)

    adapters.turn(adapters.singular_turns(), optimizer)
    unchanged()
    with torch.no_grad():  # importance moves, no rank does
        adapters.rate_parameter -= 0.02
    assert not adapters.follow_rates(optimizer)
    unchanged()
    for component in adapters.components.values():
        component.allocate(component.rank + 1, optimizer)
    unchanged()


def test_a_smaller_rank_keeps_the_means_of_the_positions_that_stay():
    model, adapters, optimizer = make("adaptive", ema=0.9)
    step(model, adapters, optimizer)
    (component, *_) = adapters.components.values()
    mean = moments_of(optimizer)(component.lora_up)["ema"].clone()
    component.allocate(5, optimizer)
    now = moments_of(optimizer)(component.lora_up)["ema"]
    assert now.shape == component.lora_up.shape == (16, 8)
    assert torch.equal(now, mean[:, :8])


def test_new_positions_begin_with_their_own_values():
    model, adapters, optimizer = make("paper", ema=0.9)
    step(model, adapters, optimizer)
    with torch.no_grad():
        adapters.rate_parameter /= 2
    grown = adapters.follow_rates(optimizer)
    assert grown
    for component, old, new in grown:
        up, down = (moments_of(optimizer)(p) for p in factors(component))
        assert torch.equal(up["ema"][:, old:new], component.lora_up[:, old:new])
        assert torch.equal(down["ema"][old:new], component.lora_down[old:new])
        assert component.lora_down[old:new].any() and not down["exp_avg"][old:new].any()


@pytest.mark.parametrize("name", ["exp_avg", "momentum_buffer", "s"])
@pytest.mark.parametrize("flat", [False, True])
def test_copies_and_gradients_keep_their_product_when_positions_turn(name: str, flat: bool):
    """A gradient times a change of the weights is a change of the loss, in any basis."""
    adapters = trained()
    generator = torch.Generator().manual_seed(0)
    (component, *_) = adapters.components.values()
    optimizer = torch.optim.SGD(factors(component), 1.0)
    for p in factors(component):
        state = {k: torch.randn(p.shape, generator=generator) for k in (name, "p0")}
        optimizer.state[p] = {k: v.flatten() if flat else v for k, v in state.items()}
    moments, used = moments_of(optimizer), component.rank

    def products() -> list[float]:
        up, down = (moments(p) for p in factors(component))
        return [
            float((up[name] * up["p0"])[:, :used].sum()),
            float((down[name] * down["p0"])[:used].sum()),
        ]

    before, weights = products(), adapters.weights[0].detach()
    component.rotate(weights, *singular_turn(*component.grams(weights)), moments)
    assert products() == pytest.approx(before, rel=1e-3, abs=1e-3)
    rescale([component], [0], torch.linspace(0.5, 2, component.capacity)[None], moments)
    assert products() == pytest.approx(before, rel=1e-3, abs=1e-3)


def test_a_flat_copy_is_resized_by_positions():
    """Prodigy keeps its sums as one row of numbers."""
    parameter = torch.nn.Parameter(torch.arange(6.0).view(2, 3))
    optimizer = torch.optim.SGD([parameter], 1.0)
    optimizer.state[parameter] = {"s": parameter.detach().flatten(), "p0": torch.tensor(0.0)}
    fresh = exchanged(parameter, 2, 1, optimizer)
    state = optimizer.state[fresh]
    assert state["s"].tolist() == [0.0, 1.0, 3.0, 4.0] and float(state["p0"]) == 0


def test_two_optimizers_are_as_one():
    """The rates' state lies beside that of the weights, in one place."""
    model, adapters, optimizer = make("adaptive", optimizer="sgd")
    step(model, adapters, optimizer)
    adapters.rate_parameter.grad = torch.ones_like(adapters.rate_parameter)
    optimizer.step()
    assert "exp_avg" in optimizer.state[adapters.rate_parameter]
    assert "momentum_buffer" in optimizer.state[optimizer.weights[0]]
    assert [len(group["params"]) for group in optimizer.param_groups] == [4, 1]


@pytest.mark.parametrize(
    ("settings", "entry"),
    [
        ({"optimizer": "adamw", "weight_decay": 1.5, "beta1": 0.9, "beta2": 0.999},
         "AdamW(weight_decay_a_run=1.5,betas=(0.9, 0.999))"),
        ({"optimizer": "sgd", "weight_decay": 0.0, "beta1": 0.8, "beta2": 0.999},
         "SGD(weight_decay_a_run=0.0,momentum=0.8)"),
        ({"optimizer": "adafactor", "weight_decay": 1.5, "beta1": 0.9, "beta2": 0.999},
         "Adafactor(weight_decay_a_run=1.5)"),
        ({"optimizer": "AdamW"}, "AdamW"), ({}, None),
        ({"optimizer": ["?"], "beta1": 1, "beta2": 1}, ["?"]),
    ],
)  # fmt: skip
def test_what_a_file_says_of_the_optimizer(settings: dict, entry: object):
    """Settings of older files, and of damaged ones, stay as they are."""
    assert optimizer_entry(settings) == entry
