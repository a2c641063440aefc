"""Weights that lie in RAM are fetched ahead: into memory that nobody reads, and used once they are
there. The order of a real GPU's streams is counted in tests/null_gpu.
"""

from collections import Counter
from contextlib import contextmanager, nullcontext
from dataclasses import replace

import comfy.ops
import pytest
import torch
from comfy.quant_ops import QUANT_ALGOS
from torch import nn

from lora2_core import TrainSettings
from lora2_core.host.training import ahead, frozen
from lora2_core.host.training.ahead import ALIGNED, SMALL, Ahead, size_in_ram
from lora2_core.host.training.choices import Choices
from lora2_core.host.training.frozen import FrozenLayers
from lora2_core.host.training.loan import lent
from lora2_core.host.training.run import train_on
from tests.tiers import fast

from .fake_card import SIZE, WIDTH, Card, Model
from .flow_models import FAMILIES, build, pictures
from .kept import quiet
from .killed import FIELDS
from .test_attention import settings
from .test_frozen import gradients, input_of, quantised


@pytest.fixture
def card(monkeypatch) -> Card:
    """All weights lie in RAM, and the CPU is a card that they are fetched to."""
    made = Card()
    monkeypatch.setattr(torch, "get_device_module", lambda device: made)
    monkeypatch.setattr(ahead, "can_fetch", lambda device: True)
    monkeypatch.setattr(frozen, "in_ram", lambda module, x: True)
    return made


@pytest.fixture(autouse=True)
def autograd():
    with torch.inference_mode(False), torch.enable_grad():
        yield


def started(model: nn.Module, laps: float) -> tuple[Ahead, FrozenLayers]:
    """A model whose weights are fetched into a buffer of so many layers."""
    made = Ahead(torch.device("cpu"))
    small = sum(s for m in model.modules() if (s := size_in_ram(m)) <= SMALL)
    made.start(model.modules(), model, int(laps * SIZE) + small)
    return made, FrozenLayers(model.modules(), made)


def passed(model: nn.Module) -> list[torch.Tensor]:
    """A forward and backward pass: its output and gradient."""
    x = torch.linspace(-1, 1, 3 * WIDTH).view(3, WIDTH).requires_grad_()
    y = model(x)
    y.square().sum().backward()
    return [y.detach(), x.grad]


def own(model: nn.Module) -> list[int]:
    return [id(p) for m in model.modules() for p in m._parameters.values()]


@pytest.fixture
def counts(monkeypatch) -> Counter:
    """How often a layer computed with what was fetched."""
    found, real = Counter(), Ahead.lend

    def lend(self, fetched):
        found[fetched.module] += 1
        real(self, fetched)

    monkeypatch.setattr(Ahead, "lend", lend)
    return found


# what is computed


@pytest.mark.parametrize("laps", [1, 1.5, 2.5, 4, 50])
def test_values_and_gradients_are_those_of_weights_on_the_card(laps, card, counts):
    model = Model()
    wanted, before = passed(model), own(model)
    made, layers = started(model, laps)
    for _ in range(4):
        assert all(map(torch.equal, passed(model), wanted))
        assert own(model) == before
    assert sum(counts.values()) == 3 * 2 * len(model.order)  # all but those of the first pass
    made.stop()
    assert all(map(torch.equal, passed(model), wanted))
    layers.remove()
    assert made.buffer is None and not made.sizes and not model._forward_pre_hooks


def test_a_layer_waits_for_its_copy_and_a_copy_for_what_was_read(card):
    model = Model()
    made, _ = started(model, 2)
    for _ in range(3):
        passed(model)
    waits = {name: [e for n, what, e in card.told[1:] if (n, what) == (name, "waits")]
             for name in ("main", "side")}  # fmt: skip
    arrived = [e for n, what, e in card.told[1:] if (n, what) == ("side", "records")]
    done = [e for n, what, e in card.told[1:] if (n, what) == ("main", "records")]
    assert card.told[0] == ("side", "waits for", "main")
    assert waits["main"] == arrived[: len(waits["main"])] and waits["main"]
    assert waits["side"] == done[: len(waits["side"])] and len(waits["side"]) >= len(done) - 2


def test_what_comes_otherwise_is_dropped_and_learned(card, counts):
    model = Model()
    made, _ = started(model, 3)
    for _ in range(2):
        passed(model)
    assert made.fetched
    made.use(model.layers[3], torch.ones(1)).__enter__()
    assert not made.fetched
    made.busy = False
    for order in ([0, 3, 2, 1], [4, 5], [4, 5, 0]):
        model.order = order
        wanted = reference(model)
        for _ in range(3):
            counts.clear()
            assert all(map(torch.equal, passed(model), wanted))
        assert sum(counts.values()) == 2 * len(order)


def reference(model: Model) -> list[torch.Tensor]:
    """What the model computes without any of it."""
    plain = Model()
    plain.load_state_dict(model.state_dict())
    plain.order = model.order
    return passed(plain)


def test_passes_without_gradients_between_are_no_others(card, counts):
    model = Model()
    started(model, 3)
    for _ in range(2):
        passed(model)
    counts.clear()
    with torch.no_grad():
        model(torch.ones(1, WIDTH))
    passed(model)
    assert sum(counts.values()) >= 3 * len(model.order) - 1  # one comes otherwise than expected


def test_a_layer_that_is_too_large_is_copied_as_ever(card, counts):
    model = Model(3)
    large = comfy.ops.manual_cast.Linear(WIDTH, 40 * WIDTH)
    model.layers.append(large)
    nn.init.zeros_(large.weight)
    made, _ = started(model, 2)
    assert size_in_ram(large) > SIZE and large not in made.sizes and len(made.sizes) == 4
    for _ in range(2):
        passed(model)
    assert large not in counts and sum(counts.values()) == 2 * len(model.order)


def test_small_layers_stay(card):
    model = Model()
    made, _ = started(model, 2)
    assert list(made.kept) == [model.norm]
    assert torch.equal(made.kept[model.norm].copies["weight"], model.norm.weight)


def test_without_room_nothing_is_fetched(card):
    for room in (0, ALIGNED - 1):
        made = Ahead(torch.device("cpu"))
        made.start(Model().modules(), Model(), room)
        assert made.buffer is None


def test_a_card_without_that_much_memory_goes_on_without(card, monkeypatch):
    def full(*args, **named):
        raise torch.OutOfMemoryError("CUDA out of memory.")

    model, made = Model(), Ahead(torch.device("cpu"))
    monkeypatch.setattr(ahead.torch, "empty", full)
    made.start(model.modules(), model, 4 * SIZE)
    assert made.buffer is None and isinstance(made.use(model.norm, torch.ones(1)), nullcontext)


@pytest.mark.parametrize("which", ["weight", "norm"])
def test_after_an_error_the_weights_are_their_own(which, card, monkeypatch):
    model = Model()
    started(model, 3)
    wanted, before = passed(model), own(model)
    module = model.norm if which == "norm" else model.layers[2]

    def fail(*args, **named):
        assert own(model) != before
        raise RuntimeError("too hot")

    with monkeypatch.context() as patched:
        patched.setattr(comfy.ops, "cast_bias_weight", lambda m, *a, **k: fail() if m is module
                        else (m.weight, m.bias, None))  # fmt: skip
        with pytest.raises(RuntimeError, match="too hot"):
            passed(model)
    assert own(model) == before
    for _ in range(2):
        assert all(map(torch.equal, passed(model), wanted))


def test_what_autograd_keeps_is_no_copy(card):
    """A graph outside of our operations keeps the weight: a copy would be written over."""
    model = Model(1)
    made, _ = started(model, 2)
    x = torch.ones(1, WIDTH, requires_grad=True)
    assert isinstance(made.use(model.layers[0], x), nullcontext)
    assert not isinstance(made.use(model.layers[0], x.detach()), nullcontext)


@pytest.mark.parametrize("name", QUANT_ALGOS)
def test_quantised_weights_are_copied_with_their_scales(name, card, counts, monkeypatch):
    monkeypatch.setattr(ahead, "SMALL", 0)
    try:
        module, _ = quantised(name)
    except (RuntimeError, NotImplementedError) as error:
        pytest.skip(f"the host can't make one here: {error}")
    module.requires_grad_(False)
    layers = FrozenLayers([module])
    wanted = gradients(module, None)
    layers.remove()
    model = nn.Sequential(module)
    size = size_in_ram(module)
    made = Ahead(torch.device("cpu"))
    made.start(model.modules(), model, 2 * size + SMALL)
    FrozenLayers(model.modules(), made)
    for _ in range(3):
        x = input_of(module)
        y = model(x)
        y.square().mean().backward()
        assert torch.equal(y.detach(), wanted[0]) and torch.equal(x.grad, wanted[1])
    assert counts[module] == 4


class Packed(torch.Tensor):
    """Bytes that say that they are a matrix, as weights of the pack that reads GGUF files do."""

    @property
    def shape(self) -> torch.Size:
        return self.unpacked


class Unpacking(comfy.ops.manual_cast.Linear):
    """Unpacks its weight in every call, as that pack's layers do."""

    def cast_bias_weight(self, input=None, dtype=None, device=None, bias_dtype=None):
        weight = self.weight.to(input.device)
        values = weight.as_subclass(torch.Tensor).to(input.dtype).view(weight.shape)
        return values * weight.factor, None

    def forward_comfy_cast_weights(self, input):
        return nn.functional.linear(input, *self.cast_bias_weight(input))


def unpacking() -> Unpacking:
    layer = Unpacking(WIDTH, WIDTH, bias=False)
    values = torch.randint(-9, 9, (WIDTH * WIDTH,), generator=torch.Generator().manual_seed(0))
    layer.weight = nn.Parameter(values.to(torch.int8).as_subclass(Packed), requires_grad=False)
    layer.weight.unpacked, layer.weight.factor = torch.Size((WIDTH, WIDTH)), 0.01
    return layer


def test_weights_of_another_packs_class_are_copied_with_what_is_noted_in_them(
    card, counts, monkeypatch
):
    monkeypatch.setattr(ahead, "SMALL", 0)
    module, seen = unpacking(), []
    assert size_in_ram(module) == WIDTH * WIDTH
    wanted = passed(module)
    unpack = Unpacking.cast_bias_weight

    def noted(self, *args, **named):
        seen.append(self.weight)
        return unpack(self, *args, **named)

    monkeypatch.setattr(Unpacking, "cast_bias_weight", noted)
    model = nn.Sequential(module)
    made, layers = started(model, 2)
    for _ in range(3):
        assert all(map(torch.equal, passed(model), wanted))
    assert counts[module] == 4 and all(type(weight) is Packed for weight in seen)
    first, size = made.buffer.data_ptr(), len(made.buffer)
    assert sum(first <= weight.data_ptr() < first + size for weight in seen) == 4
    layers.remove()


# a run


@contextmanager
def fetching(model, monkeypatch, room: int):
    """The model's weights are fetched while it is on loan."""
    real = Ahead.start
    casting = [m for m in model.model.modules() if hasattr(m, "comfy_cast_weights")]
    with monkeypatch.context() as patched:
        patched.setattr(
            Ahead, "start", lambda self, modules, inner, _: real(self, modules, inner, room)
        )
        for module in casting:
            module.comfy_cast_weights = True
        try:
            yield
        finally:
            for module in casting:
                del module.comfy_cast_weights


@pytest.mark.parametrize("checkpointing", ["off", "on", "offload"])
@pytest.mark.parametrize("name", fast(list(FAMILIES), "Flux"))
def test_flow_models_learn_the_same(name, checkpointing, card, counts, monkeypatch):
    monkeypatch.setattr(ahead, "SMALL", ALIGNED)
    model, data = build(name), pictures(name)
    choices = replace(settings(checkpointing), training=TrainSettings(4, 1e-2))
    sizes = [size_in_ram(module) for module in model.model.modules()]
    room = 3 * max(sizes) + sum(size for size in sizes if size <= ALIGNED)
    with fetching(model, monkeypatch, 0):
        wanted = train_on(model, *data, choices, quiet)
    assert not counts
    with fetching(model, monkeypatch, room):
        found = train_on(model, *data, choices, quiet)
    assert found.stopped_by is None and found.losses == wanted.losses and sum(counts.values())
    for layer, learned in wanted.lora.layers.items():
        assert torch.equal(found.lora.layers[layer].up, learned.up)


def test_the_unet_learns_the_same(playground, card, counts, monkeypatch):
    choices = Choices.of(FIELDS | {"steps": 4, "targets": "attn|proj_in|conv"})
    data = playground.model, playground.latents, playground.positive
    with fetching(playground.model, monkeypatch, 0):
        wanted = train_on(*data, choices, quiet)
    with fetching(playground.model, monkeypatch, 600_000):
        found = train_on(*data, choices, quiet)
    assert found.losses == wanted.losses and sum(counts.values())
    for layer, learned in wanted.lora.layers.items():
        assert torch.equal(found.lora.layers[layer].up, learned.up)


def test_the_host_gets_its_weights_back_between(playground, card, monkeypatch):
    """Before it moves or frees a weight, all copies of it have arrived."""
    with fetching(playground.model, monkeypatch, 600_000), lent(playground.model) as loan:
        first = loan.ahead.buffer
        assert first is not None
        with loan.paused():
            assert card.told[-1] == ("side", "ends") and loan.ahead.buffer is None
            assert not loan.inner.diffusion_model._forward_pre_hooks
        assert loan.ahead.buffer is not None and loan.ahead.order.last == []
    assert card.told[-1] == ("side", "ends") and loan.ahead.buffer is None
