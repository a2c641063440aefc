"""One adapted layer: the hooked path is W0 + B Lambda A, and detach leaves nothing behind."""

import copy

import pytest
import torch
from torch import nn

import lora2_core as lora2
from lora2_core.layer import Component, is_adaptable
from lora2_core.rank import unit_scale

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
        component.lora_up.data.normal_(0, std, generator=generator)
        component.lora_down.data.normal_(0, std, generator=generator)


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
    weights = unit_scale(SETTINGS.quantile) * torch.exp(-log_rate.exp() * i)
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


@pytest.mark.parametrize(("fan_in", "fan_out", "capacity"), [(4, 90, 4), (90, 5, 5), (90, 90, 64)])
def test_capacity_never_exceeds_what_the_shape_can_hold(fan_in, fan_out, capacity):
    assert Component(nn.Linear(fan_in, fan_out), 64, torch.device("cpu")).capacity == capacity
