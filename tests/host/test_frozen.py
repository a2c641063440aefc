"""The host's layers, however their weights are stored, compute and learn as their plain weights do,
and nothing that they cast is kept: neither a copy nor memory that other layers write into.
"""

import weakref
from contextlib import contextmanager

import comfy.ops
import pytest
import torch
from comfy.quant_ops import QUANT_ALGOS, QuantizedTensor
from torch import Tensor, nn
from torch.nn import functional as F

import lora2_core as lora2
from lora2_core.host.training import frozen
from lora2_core.host.training.choices import Choices
from lora2_core.host.training.frozen import FrozenLayers, HostFrozen, Recomputed
from lora2_core.host.training.loan import lent
from lora2_core.host.training.run import train_on
from tests.host.kept import quiet
from tests.host.killed import FIELDS
from tests.layers.test_layer import fill
from tests.tiers import fast

from .flow_models import FAMILIES, build, pictures
from .test_attention import settings

cast, plain = comfy.ops.manual_cast, comfy.ops.disable_weight_init
IN, OUT = 256, 96  # what blocks of every format divide


class Unpacked(cast.Linear):
    """As the layers of another pack are, that keeps weights in blocks of its own."""

    def cast_bias_weight(self, input=None, dtype=None, device=None, bias_dtype=None):
        return self.weight.to(input.dtype) * 0.5, self.bias

    def forward_comfy_cast_weights(self, input):
        return F.linear(input, *self.cast_bias_weight(input))


def drawn(shape: tuple[int, ...]) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(0)) / shape[-1] ** 0.5


def filled(module: nn.Module, weight: Tensor) -> nn.Module:
    module.weight = nn.Parameter(weight, requires_grad=False)
    module.bias = nn.Parameter(torch.linspace(-1, 1, OUT), requires_grad=False)
    return module


def stored(kind: type, dtype: torch.dtype, scale: float = 1.0):
    """A Linear whose weight has another dtype than its inputs, and the weight it computes with."""
    weight = drawn((OUT, IN)).to(dtype)
    return filled(kind(IN, OUT), weight), weight.float() * scale


def quantised(name: str):
    algo = QUANT_ALGOS[name]
    weight = QuantizedTensor.from_float(drawn((OUT, IN)), algo["comfy_tensor_layout"])
    kind = comfy.ops.mixed_precision_ops({}, torch.float32).Linear
    module = filled(kind(IN, OUT), weight)
    module.quant_format, module.layout_type = name, algo["comfy_tensor_layout"]
    return module, weight.dequantize().float()


def patched():
    """With a LoRA of the user that is added as the weight is cast."""
    module, weight = stored(cast.Linear, torch.bfloat16)
    module.weight_function = [lambda w: w + 0.25]
    return module, weight + 0.25


def convolution():
    weight = drawn((OUT, IN, 3, 3)).to(torch.bfloat16)
    return filled(cast.Conv2d(IN, OUT, 3, stride=2, padding=1), weight), weight.float()


LAYERS = {
    "plain": lambda: stored(plain.Linear, torch.float32),
    "bf16": lambda: stored(cast.Linear, torch.bfloat16),
    "fp8": lambda: stored(cast.Linear, torch.float8_e4m3fn),
    "fp8, other kernels": lambda: stored(comfy.ops.fp8_ops.Linear, torch.float8_e4m3fn),
    "another pack's": lambda: stored(Unpacked, torch.float16, 0.5),
    "patched": patched,
    "conv": convolution,
} | {name: lambda name=name: quantised(name) for name in QUANT_ALGOS}


@pytest.fixture(autouse=True)
def autograd():
    with torch.inference_mode(False), torch.enable_grad():
        yield


@pytest.fixture(params=LAYERS, ids=str)
def layer(request):
    """A layer, and a plain one with the weight that it computes with."""
    try:
        module, weight = LAYERS[request.param]()
    except (RuntimeError, NotImplementedError) as error:
        pytest.skip(f"the host can't make one here: {error}")
    conv = weight.ndim == 4
    reference = nn.Conv2d(IN, OUT, 3, stride=2, padding=1) if conv else nn.Linear(IN, OUT)
    reference.weight.data, reference.bias.data = weight, module.bias.data.clone()
    return module, reference.requires_grad_(False)


def input_of(module: nn.Module) -> Tensor:
    generator = torch.Generator().manual_seed(2)
    shape = (2, IN, 7, 6) if hasattr(module, "kernel_size") else (2, 32, IN)
    return torch.randn(shape, generator=generator, requires_grad=True)


def adapted(module: nn.Module, frozen) -> lora2.Adapters:
    settings = lora2.RankSettings(target_rank=3, max_rank=8, start_rank=3)
    adapters = lora2.attach(module, {"0": module}, settings, device="cpu", frozen=frozen)
    fill(adapters)
    return adapters


def gradients(module: nn.Module, adapters: lora2.Adapters | None) -> list[Tensor]:
    x = input_of(module)
    y = module(x)
    y.square().mean().backward()
    (component,) = adapters.components.values() if adapters else (None,)
    own = [component.lora_up.grad, component.lora_down.grad] if component else []
    return [y.detach(), x.grad, *own]


@pytest.mark.parametrize("learns", [True, False], ids=["adapted", "alone"])
def test_outputs_and_gradients_are_those_of_the_plain_weight(layer, learns):
    module, reference = layer
    hook = adapted(reference, lambda module: None) if learns else None
    wanted = gradients(reference, hook)
    layers = FrozenLayers([module])
    ours = adapted(module, layers.of) if learns else None
    for a, b in zip(gradients(module, ours), wanted, strict=True):
        scale = float(b.abs().max())
        torch.testing.assert_close(a, b, rtol=0, atol=1e-5 * scale)
    if ours is not None:
        ours.detach()
    layers.remove()
    assert "forward" not in vars(module)


@pytest.mark.parametrize("learns", [True, False], ids=["adapted", "alone"])
def test_no_copy_of_a_weight_is_kept(layer, learns):
    module, kept = layer[0], []
    layers = FrozenLayers([module])
    if learns:
        adapted(module, layers.of)
    own = {t.data_ptr() for t in module.parameters() if type(t.data) is Tensor}

    def keep(tensor: Tensor) -> Tensor:
        if type(tensor) is not Tensor or tensor.data_ptr() not in own:
            kept.append(tensor.shape)
        return tensor

    x = input_of(module)
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda t: t):
        module(x)
    shape = module.weight.shape
    assert shape not in kept and shape[::-1] not in kept


def test_inputs_are_not_written_into():
    """The host's own fp8 kernel clamps its input in place."""
    module, _ = LAYERS["fp8, other kernels"]()
    FrozenLayers([module])
    x = (1000 * input_of(module)).detach().bfloat16().requires_grad_()
    before = x.detach().clone()
    module(x).sum().backward()
    assert torch.equal(x, before)


def test_layers_that_smooth_their_inputs_have_the_gradients_of_that_too():
    module, reference = quantised("float8_e4m3fn")[0], nn.Linear(IN, OUT)
    module._full_precision_mm = True
    module.pre_quant_scale = nn.Parameter(torch.linspace(0.5, 2, IN), requires_grad=False)
    weight = module.weight.dequantize().float() * module.pre_quant_scale
    reference.weight.data, reference.bias.data = weight, module.bias.data.clone()
    reference.requires_grad_(False)
    layers = FrozenLayers([module])
    found = gradients(module, adapted(module, layers.of))
    for a, b in zip(found, gradients(reference, adapted(reference, lambda m: None)), strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=1e-5 * float(b.abs().max()))


def test_what_has_a_forward_of_its_own_or_is_not_the_hosts_is_left_alone():
    class Other(cast.Linear):
        def forward_comfy_cast_weights(self, input):
            return 2 * super().forward_comfy_cast_weights(input)

    theirs = cast.Linear(4, 4)
    theirs.forward = own = lambda x: x
    scaled = cast.Linear(4, 4)
    scaled.scale_weight = torch.ones(())
    modules = [theirs, Other(4, 4), scaled, nn.Linear(4, 4)]
    layers = FrozenLayers(modules)
    assert layers.layers == {} and theirs.forward is own
    assert [layers.of(module.requires_grad_(False)) is None for module in modules[:3]] == [True] * 3


def test_a_model_on_loan_computes_so_and_leaves_as_it_came(playground):
    inner = playground.model.model
    with lent(playground.model) as loan:
        kinds = {type(layer) for layer in loan.frozen.layers.values()}
        assert kinds == {HostFrozen, Recomputed}
        with loan.paused():
            pass
    assert not any("forward" in vars(module) for module in inner.modules())


@pytest.mark.parametrize("kind", ["adapted", "alone", "norm"])
def test_nothing_is_held_beside_what_autograd_keeps(kind, monkeypatch):
    """A checkpoint gives away what is kept: an input that an operation held itself would stay."""
    monkeypatch.setattr(frozen, "in_ram", lambda module, x: True)
    module = cast.LayerNorm(IN) if kind == "norm" else stored(cast.Linear, torch.bfloat16)[0]
    if kind == "norm":
        nn.init.ones_(module.weight)
        nn.init.zeros_(module.bias)
    layers = FrozenLayers([module.requires_grad_(False)])
    if kind == "adapted":
        adapted(module, layers.of)
    x = torch.randn(2, IN, requires_grad=True) * 1
    held = weakref.ref(x)
    with torch.autograd.graph.saved_tensors_hooks(lambda t: None, lambda _: None):
        y = module(x)
    del x
    assert held() is None and y.requires_grad


# weights that lie in RAM, on a machine that has nothing else


@contextmanager
def weights_in_ram(model, monkeypatch):
    """The host passes all weights through one buffer, as it does where they lie in RAM."""
    buffer = torch.empty(1 << 20)
    counts = {"cast": 0, "uncast": 0}

    def through(module, input=None, dtype=None, **_):
        counts["cast"] += 1
        dtype, start, found = dtype or input.dtype, 0, []
        for tensor in (module.weight, module.bias):
            if tensor is None:
                found.append(None)
                continue
            view = buffer[start : start + tensor.numel()].view(tensor.shape)
            with torch.no_grad():
                view.copy_(tensor)
            start += tensor.numel()
            found.append(view.to(dtype))
        return *found, (None, None, None)

    def back(module, weight, bias, stream):
        counts["uncast"] += weight is not None  # norms without a weight are given back too

    monkeypatch.setattr(comfy.ops, "cast_bias_weight", through)
    monkeypatch.setattr(comfy.ops, "uncast_bias_weight", back)
    casting = [m for m in model.model.modules() if hasattr(m, "comfy_cast_weights")]
    for module in casting:
        module.comfy_cast_weights = True
        module._v = None  # the host marks them so
    try:
        yield counts
    finally:
        for module in casting:
            del module.comfy_cast_weights, module._v


@pytest.mark.parametrize("checkpointing", ["off", "on"])
@pytest.mark.parametrize("name", fast(list(FAMILIES), "Flux", "Wan 2.1"))
def test_flow_models_learn_the_same_from_weights_in_ram(name, checkpointing, monkeypatch):
    model, data = build(name), pictures(name)
    wanted = train_on(model, *data, settings(checkpointing), quiet)
    with weights_in_ram(model, monkeypatch) as counts:
        found = train_on(model, *data, settings(checkpointing), quiet)
    # what is cast is computed by the layer's own forward, whose products may round otherwise
    assert found.stopped_by is None and found.losses == pytest.approx(wanted.losses, rel=1e-6)
    assert counts["cast"] == counts["uncast"] > 0
    for layer, learned in wanted.lora.layers.items():
        torch.testing.assert_close(found.lora.layers[layer].up, learned.up, rtol=0, atol=1e-6)


def test_the_unet_learns_the_same_from_weights_in_ram(playground, monkeypatch):
    choices = Choices.of(FIELDS | {"steps": 3, "targets": "attn|proj_in|conv"})
    data = playground.model, playground.latents, playground.positive
    wanted = train_on(*data, choices, quiet)
    with weights_in_ram(playground.model, monkeypatch):
        found = train_on(*data, choices, quiet)
    assert found.stopped_by is None and found.losses == pytest.approx(wanted.losses, rel=1e-6)


def test_without_it_other_layers_weights_would_be_read(playground, monkeypatch, caplog):
    """The tests above prove nothing unless the buffer is shared as the host's is."""
    monkeypatch.setattr(frozen, "layer_of", lambda module: None)
    data = playground.model, playground.latents, playground.positive
    with weights_in_ram(playground.model, monkeypatch), caplog.at_level("INFO"):
        train_on(*data, Choices.of(FIELDS | {"steps": 3}), quiet)
    assert "writes over values" in caplog.text
