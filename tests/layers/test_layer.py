"""One adapted layer: the hooked path is W0 + B Lambda A, and detach leaves nothing behind."""

import copy
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

import lora2_core as lora2
from lora2_core.adapter.singular import singular_turn
from lora2_core.layers import rescaling
from lora2_core.layers.layer import Component, is_adaptable

MODULES = {
    "linear": (lambda: nn.Linear(12, 20), (3, 7, 12)),
    "linear, no bias": (lambda: nn.Linear(20, 12, bias=False), (2, 20)),
    "conv 1x1": (lambda: nn.Conv2d(5, 8, 1), (2, 5, 6, 7)),
    "conv 3x3": (lambda: nn.Conv2d(5, 8, 3, padding=1), (2, 5, 6, 7)),
    "conv stride": (lambda: nn.Conv2d(5, 8, 3, stride=(2, 1), padding=1), (2, 5, 9, 7)),
    "conv dilation": (lambda: nn.Conv2d(5, 8, 3, dilation=2, padding=2), (2, 5, 9, 8)),
    "conv oblong": (lambda: nn.Conv2d(5, 8, (1, 5), padding=(0, 2)), (2, 5, 6, 7)),
    "conv same": (lambda: nn.Conv2d(5, 8, 4, padding="same"), (2, 5, 6, 7)),
    "conv valid": (lambda: nn.Conv2d(5, 8, 3, padding="valid"), (2, 5, 6, 7)),
    "conv circular": (
        lambda: nn.Conv2d(5, 8, 3, padding=1, padding_mode="circular"),
        (2, 5, 6, 7),
    ),
    "conv reflect": (
        lambda: nn.Conv2d(5, 8, 3, padding=(2, 1), padding_mode="reflect"),
        (2, 5, 6, 7),
    ),
    "conv same replicate": (
        lambda: nn.Conv2d(5, 8, 4, padding="same", padding_mode="replicate"),
        (2, 5, 6, 7),
    ),
}
TOLERANCE = {torch.float32: 2e-5, torch.bfloat16: 0.06}
# torch says that it pads a copy for an even kernel
pytestmark = pytest.mark.filterwarnings("ignore:Using padding='same'")
SETTINGS = lora2.RankSettings(target_rank=2, max_rank=8)


@pytest.fixture(params=MODULES, ids=str)
def case(request) -> tuple[nn.Sequential, torch.Tensor]:
    """A model of one layer called "0", and an input."""
    torch.manual_seed(1)
    make, shape = MODULES[request.param]
    return nn.Sequential(make()), torch.randn(shape)


def fill(adapters: lora2.Adapters, std: float = 0.3) -> None:
    """Gives lora_up values, as training would; also beyond the rank, where they must not matter."""
    generator = torch.Generator().manual_seed(2)
    for component in adapters.components.values():
        for tensor in (component.lora_up.data, component.lora_down.data):
            tensor.copy_(torch.empty(tensor.shape).normal_(0, std, generator=generator))


def dense(model: nn.Sequential, adapters: lora2.Adapters) -> nn.Sequential:
    """The naive reference: W0 + B Lambda A, position by position, in a plain copy of the layer."""
    (component,) = adapters.components.values()
    weights = adapters.weights[0]
    delta = torch.zeros(component.fan_out, component.fan_in)
    for i in range(component.rank):
        delta += weights[i] * torch.outer(component.lora_up[:, i], component.lora_down[i])
    (layer,) = copy.deepcopy(model)
    layer._forward_hooks.clear()
    layer.weight.data = layer.weight.data.float() + delta.detach().view_as(layer.weight)
    return layer


@pytest.mark.parametrize("mode", ["adaptive", "paper", "fixed"])
@pytest.mark.parametrize("dtype", TOLERANCE, ids=str)
def test_the_path_equals_the_dense_update(case, dtype: torch.dtype, mode: str):
    model, x = case
    model.to(dtype)
    settings = lora2.RankSettings(mode=mode, target_rank=3, max_rank=8, start_rank=3)
    adapters = lora2.attach(model, "0", settings)
    fill(adapters, 1.0 if mode == "paper" else 0.3)
    x = x.to(dtype)
    reference = dense(model, adapters).float()(x.float()).detach()
    found = model(x)
    assert found.dtype == dtype
    scale = reference.abs().max().item()
    torch.testing.assert_close(found.float(), reference, rtol=0, atol=TOLERANCE[dtype] * scale)


def test_gradients_are_those_of_the_dense_update(case):
    """lora_down, lora_up and the rate get what autograd gives for W0 + B diag(c e^(-nu i)) A."""
    model, x = case
    adapters = lora2.attach(model, "0", SETTINGS)
    fill(adapters)
    (component,) = adapters.components.values()
    up, down, log_rate = (
        t.detach().clone().requires_grad_()
        for t in (component.lora_up, component.lora_down, adapters.rate_parameter)
    )
    i = torch.arange(component.rank)
    falling = torch.exp(-log_rate.exp() * i)
    weights = falling * (2 / falling.square().sum()).sqrt().detach()  # 2: the target rank
    delta = up[:, : component.rank] @ torch.diag(weights) @ down[: component.rank]
    layer = copy.deepcopy(model[0])
    layer._forward_hooks.clear()
    weight = layer.weight.detach() + delta.view_as(layer.weight)
    torch.func.functional_call(layer, {"weight": weight}, x).square().mean().backward()
    adapters.refresh()
    model(x).square().mean().backward()
    pairs = [(up, component.lora_up), (down, component.lora_down)]
    for expected, found in [*pairs, (log_rate, adapters.rate_parameter)]:
        torch.testing.assert_close(found.grad, expected.grad, rtol=1e-4, atol=1e-6)


def test_an_input_given_by_name_is_the_same_input(case):
    model, x = case
    fill(lora2.attach(model, "0", SETTINGS))
    assert torch.equal(model[0](input=x), model[0](x))


def test_a_hosts_own_layer_may_call_its_input_what_it_likes():
    class Linear(nn.Linear):
        def forward(self, hidden_states: Tensor) -> Tensor:
            return super().forward(hidden_states)

    model, x = nn.Sequential(Linear(6, 4)), torch.randn(2, 6)
    before = model(x)
    fill(lora2.attach(model, "0", SETTINGS))
    assert torch.equal(model[0](hidden_states=x), model[0](x))
    assert not torch.equal(model[0](x), before)


@pytest.mark.parametrize("init", ["matched", "paper"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
def test_the_update_is_exactly_zero_at_first(case, dtype: torch.dtype, init: str):
    model, x = case
    model, x = model.to(dtype), x.to(dtype)
    before = model(x)
    lora2.attach(model, "0", lora2.RankSettings(target_rank=4, max_rank=8, init=init))
    assert torch.equal(model(x), before)


@pytest.mark.parametrize("rank", [1, 4, 8])
def test_fp16_inputs_stay_finite_with_the_papers_init(rank: int):
    """(Lambda A) x overflows fp16 here, so the path runs in fp32."""
    torch.manual_seed(0)
    model, x = nn.Sequential(nn.Linear(1280, 256)).half(), torch.full((1, 1280), 3000.0).half()
    settings = lora2.RankSettings(mode="paper", target_rank=rank, max_rank=256)
    adapters = lora2.attach(model, "0", settings)
    (component,) = adapters.components.values()
    component.lora_up.data.fill_(1e-4)
    _, folded = adapters.folded()["0"]
    assert not torch.isfinite(x @ folded.half().T).all(), "the trap is there"
    reference = dense(model, adapters).float()(x.float()).detach()
    assert torch.isfinite(model(x)).all()
    scale = reference.abs().max().item()
    torch.testing.assert_close(model(x).float(), reference, rtol=0, atol=2e-3 * scale)


def test_detach_leaves_the_module_bit_identical(case):
    model, x = case
    model[0].register_forward_hook(lambda *_: None)  # somebody else's
    state, hooks = copy.deepcopy(model.state_dict()), dict(model[0]._forward_hooks)
    before = model(x)
    keys, names = set(vars(model[0])), [n for n, _ in model.named_parameters()]
    adapters = lora2.attach(model, "0", SETTINGS)
    fill(adapters)
    assert not torch.equal(model(x), before)
    assert list(model.state_dict()) == list(state), "the adapter is no part of the model"
    assert [n for n, _ in model.named_parameters()] == names
    adapters.detach()
    adapters.detach()  # a second time does nothing
    assert dict(model[0]._forward_hooks) == hooks
    assert set(vars(model[0])) == keys
    assert all(torch.equal(model.state_dict()[k], v) for k, v in state.items())
    assert torch.equal(model(x), before)


@pytest.mark.parametrize(
    ("module", "adaptable"),
    [
        (nn.Linear(4, 4), True),
        (nn.Conv2d(4, 4, 3), True),
        (nn.Conv2d(4, 4, 3, groups=2), False),
        (nn.ConvTranspose2d(4, 4, 3), False),
        (nn.Conv1d(4, 4, 3), False),
        (nn.Conv3d(4, 4, 3), False),
        (nn.MaxPool2d(2), False),
        (nn.AvgPool2d((2, 2)), False),
        (nn.Unfold((2, 2)), False),
        (nn.Bilinear(4, 4, 4), False),
        (nn.Embedding(4, 4), False),
        (nn.LayerNorm(4), False),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, nn.Module) else "",
)
def test_only_linear_and_plain_conv2d_are_adapted(module: nn.Module, adaptable: bool):
    assert is_adaptable(module) is adaptable


@pytest.mark.parametrize(
    ("fan_in", "fan_out", "rank", "capacity"),
    [(4, 90, 4, 4), (90, 5, 3, 5), (90, 90, 64, 64), (90, 90, 9, 16), (90, 90, 8, 8), (9, 9, 0, 0)],
)
def test_capacity_is_whole_tiles_within_what_the_shape_can_hold(fan_in, fan_out, rank, capacity):
    component = Component(nn.Linear(fan_in, fan_out), 64, torch.device("cpu"))
    component.allocate(rank)
    assert component.capacity == capacity
    assert component.lora_up.shape == (fan_out, capacity)
    assert component.lora_down.shape == (capacity, fan_in)


def test_resizing_keeps_what_stays_and_the_optimizers_moments_with_it():
    component = component_of(nn.Linear(30, 20), 16, 16)
    optimizer = torch.optim.Adam([component.lora_up, component.lora_down])

    def step() -> Tensor:
        loss = component.lora_up.square().sum() + component.lora_down.square().sum()
        loss.backward()
        optimizer.step()
        return loss

    graph = step()  # still there when the sizes change
    up = component.lora_up.detach().clone()
    before = {k: v.clone() for k, v in optimizer.state[component.lora_down].items()}
    for capacity in (8, 20):
        component.allocate(capacity, optimizer)
        assert torch.equal(component.lora_up[:, :8], up[:, :8])
        assert not component.lora_up[:, 8:].any()
        for name in ("exp_avg", "exp_avg_sq"):
            moment = optimizer.state[component.lora_down][name]
            assert moment.shape == component.lora_down.shape
            assert torch.equal(moment[:8], before[name][:8]) and not moment[8:].any()
    assert optimizer.param_groups[0]["params"] == [component.lora_up, component.lora_down]
    assert len(optimizer.state) == 2
    step()
    assert float(optimizer.state[component.lora_down]["step"]) == 2 and graph.requires_grad


def test_a_layer_of_rank_0_hands_its_output_on(case):
    """Nothing is computed or copied: what goes out is what the module made."""
    model, x = case
    outputs = []
    model[0].register_forward_hook(lambda _module, _args, output: outputs.append(output))
    adapters = lora2.attach(model, "0", SETTINGS)
    fill(adapters)
    (component,) = adapters.components.values()
    component.rank = 0
    assert model(x) is outputs[0]
    up, down = adapters.folded()["0"]
    assert up.shape[1] == down.shape[0] == 0


def falling(length: int) -> Tensor:
    return 1.7 * torch.exp(-0.3 * torch.arange(length))


def no_moments(_parameter: Tensor) -> dict[str, Tensor]:
    return {}


def rotate(component: Component, weights: Tensor, moments: Callable = no_moments) -> None:
    component.rotate(weights, *singular_turn(*component.grams(weights)), moments)


def component_of(module: nn.Module, rank: int, capacity: int = 64) -> Component:
    """Random values in all positions; the first `rank` are used."""
    component = Component(module, capacity, torch.device("cpu"))
    component.allocate(capacity)
    component.rank = rank
    generator = torch.Generator().manual_seed(5)
    component.lora_up.data.normal_(0, 0.3, generator=generator)
    component.lora_down.data.normal_(0, 0.3, generator=generator)
    return component


def no_change(_component: Component) -> None:
    pass


def zero_up(component: Component) -> None:
    component.lora_up.data.zero_()


def equal_positions(component: Component) -> None:
    """lora_up of less rank than it has positions."""
    component.lora_up.data[:, 1:] = component.lora_up.data[:, :1]


def one_zero_position(component: Component) -> None:
    """As a position that has just grown."""
    component.lora_up.data[:, component.rank - 1] = 0


ROTATED = {
    "linear": (nn.Linear(12, 20), 5, no_change),
    "conv": (nn.Conv2d(5, 9, 3), 6, no_change),
    "one position": (nn.Linear(12, 20), 1, no_change),
    "as many as inputs": (nn.Linear(6, 20), 6, no_change),
    "as many as outputs": (nn.Linear(20, 6), 6, no_change),
    "square": (nn.Linear(7, 7), 7, no_change),
    "at the start": (nn.Linear(12, 20), 5, zero_up),
    "deficient": (nn.Linear(12, 20), 5, equal_positions),
    "just grown": (nn.Linear(12, 20), 5, one_zero_position),
}


@pytest.fixture(params=ROTATED, ids=str)
def component(request) -> Component:
    module, rank, change = ROTATED[request.param]
    made = component_of(module, rank)
    change(made)
    return made


def product(component: Component, weights: Tensor) -> Tensor:
    up, down = component.folded(weights)
    return up.double() @ down.double()


def test_rotation_keeps_the_update_and_what_lies_beyond_the_rank(component: Component):
    weights, rank = falling(component.capacity), component.rank
    before = product(component, weights)
    beyond = component.lora_up[:, rank:].clone(), component.lora_down[rank:].clone()
    rotate(component, weights)
    torch.testing.assert_close(product(component, weights), before, rtol=0, atol=1e-5)
    assert torch.equal(component.lora_up[:, rank:], beyond[0])
    assert torch.equal(component.lora_down[rank:], beyond[1])


def test_rotation_gives_the_singular_basis(component: Component):
    """Rows of lora_down orthogonal, all of their mean length; singular values in falling order."""
    weights, rank = falling(component.capacity), component.rank
    length = component.lora_down[:rank].norm() / rank**0.5
    singular = torch.linalg.svdvals(product(component, weights))[:rank].float()
    rotate(component, weights)
    down = component.lora_down[:rank]
    expected = length.square() * torch.eye(rank)
    torch.testing.assert_close(down @ down.T, expected, rtol=1e-4, atol=1e-5)
    up, folded = component.folded(weights)
    found = up.norm(dim=0) * folded.norm(dim=1)
    torch.testing.assert_close(found, singular, rtol=1e-4, atol=1e-5)
    assert (found.diff() <= 1e-6).all()
    gram = up.T @ up
    torch.testing.assert_close(gram, gram.diagonal().diag(), rtol=0, atol=1e-5)


def gradients(component: Component, weights: Tensor, x: Tensor) -> list[Tensor]:
    """Of lora_up and lora_down, all positions, for a loss of the layer's own outputs."""
    component.lora_up.grad = component.lora_down.grad = None
    used = weights * (torch.arange(len(weights)) < component.rank)
    y = component.add_path(x, component.module(x), used)
    (y - torch.linspace(-1, 1, y.numel()).view_as(y)).square().mean().backward()
    return [component.lora_up.grad.clone(), component.lora_down.grad.clone()]


def moments_of(component: Component, **named: list[Tensor]) -> Callable[[Tensor], dict]:
    pairs = {name: dict(zip(("up", "down"), pair, strict=True)) for name, pair in named.items()}

    def moments(parameter: Tensor) -> dict[str, Tensor]:
        side = "up" if parameter is component.lora_up else "down"
        return {name: pair[side] for name, pair in pairs.items()}

    return moments


def test_the_mean_gradient_turns_as_gradients_do(component: Component):
    """exp_avg of a constant gradient is afterwards what autograd gives in the turned basis."""
    generator = torch.Generator().manual_seed(6)
    shape = (2, 5, 6, 7) if component.kernel else (4, component.fan_in)
    x = torch.randn(shape, generator=generator)
    weights = falling(component.capacity)
    turned = gradients(component, weights, x)
    rotate(component, weights, moments_of(component, exp_avg=turned))
    for found, expected in zip(turned, gradients(component, weights, x), strict=True):
        scale = float(expected.abs().max())
        torch.testing.assert_close(found, expected, rtol=0, atol=1e-4 * scale + 1e-7)


def test_the_mean_square_turns_exactly_where_positions_only_change_places():
    """Orthogonal positions in the wrong order: each gradient moves and is scaled, none mix."""
    component = component_of(nn.Linear(8, 9), 3)
    generator = torch.Generator().manual_seed(7)
    with torch.no_grad():
        component.lora_up[:, :3] = torch.linalg.qr(torch.randn(9, 3, generator=generator))[0]
        component.lora_up[:, :3] *= torch.tensor([0.2, 3.0, 1.0])
        component.lora_down[:3] = torch.linalg.qr(torch.randn(8, 3, generator=generator))[0].T
    weights = torch.tensor([1.5, 1.0, 0.6, 0.4, 0.3, 0.2, 0.1, 0.1])
    x = torch.randn(4, 8, generator=generator)
    squares = [g.square() for g in gradients(component, weights, x)]
    rotate(component, weights, moments_of(component, exp_avg_sq=squares))
    for found, gradient in zip(squares, gradients(component, weights, x), strict=True):
        torch.testing.assert_close(found, gradient.square(), rtol=1e-3, atol=1e-9)


def test_a_mean_square_never_turns_negative(component: Component):
    squares = [torch.rand_like(p) for p in (component.lora_up, component.lora_down)]
    beyond = squares[0][:, component.rank :].clone(), squares[1][component.rank :].clone()
    rotate(component, falling(component.capacity), moments_of(component, exp_avg_sq=squares))
    assert all((s >= 0).all() and torch.isfinite(s).all() for s in squares)
    assert torch.equal(squares[0][:, component.rank :], beyond[0])
    assert torch.equal(squares[1][component.rank :], beyond[1])


def test_turning_twice_is_turning_once(component: Component):
    weights = falling(component.capacity)
    rotate(component, weights)
    once = component.lora_up.detach().square(), component.lora_down.detach().norm(dim=1)
    rotate(component, weights)
    torch.testing.assert_close(component.lora_up.square(), once[0], rtol=1e-3, atol=1e-5)
    torch.testing.assert_close(component.lora_down.norm(dim=1), once[1])


@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_rescaling_keeps_the_updates_under_other_weights(device, monkeypatch):
    """Together as on a GPU too; of the second layer Lambda stays."""
    alike = rescaling.alike
    monkeypatch.setattr(rescaling, "alike", lambda sizes, _: alike(sizes, torch.device(device)))
    shapes = [(12, 20, 5), (12, 8, 5), (9, 30, 5), (20, 16, 8)]
    layers = [component_of(nn.Linear(i, o), rank, rank) for i, o, rank in shapes]
    old = torch.stack([falling(8)] * 4)
    new, rows = 0.4 * old.square(), [0, 2, 3]
    before = [product(c, w[: c.capacity]) for c, w in zip(layers, old, strict=True)]
    names = "exp_avg", "exp_avg_sq", "ema"
    kept = {c.lora_up: {n: torch.rand_like(c.lora_up) for n in names} for c in layers}
    seen = {up: {n: m.clone() for n, m in each.items()} for up, each in kept.items()}
    rescaling.rescale(layers, rows, new / old, kept.get)
    for row, layer in enumerate(layers):
        after, ratio = (new if row in rows else old)[row], torch.ones(8)
        if row in rows:
            ratio = new[row] / old[row]
        after, ratio = after[: layer.capacity], ratio[: layer.capacity]
        torch.testing.assert_close(product(layer, after), before[row], rtol=1e-6, atol=1e-6)
        for name, factor in zip(names, (ratio, ratio.square(), 1 / ratio), strict=True):
            wanted = seen[layer.lora_up][name] * factor
            torch.testing.assert_close(kept[layer.lora_up][name], wanted)
