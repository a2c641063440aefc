"""Layers that get the same input share products, and give what each gives alone."""

import gc
import weakref

import pytest
import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

import lora2_core as lora2
from lora2_core.layers import folding, passes, sharing
from lora2_core.layers.joined import frozen_of
from lora2_core.training.run import Run
from lora2_core.training.run_state import captured, restore, restore_adapters
from tests.layers.test_joined import EXACT, compare
from tests.layers.test_layer import fill

WIDTH, TOKENS = 12, 10


class Block(nn.Module):
    """Attention to itself and to a caption, as the host calls its layers."""

    def __init__(self, width: int):
        super().__init__()
        for name, size in ("q", WIDTH), ("k", WIDTH), ("v", WIDTH), ("k2", TOKENS), ("v2", TOKENS):
            setattr(self, name, nn.Linear(size, width))
        self.out = nn.Linear(width, WIDTH)

    def forward(self, x: Tensor, caption: Tensor) -> Tensor:
        y = x.tanh()
        mixed = self.q(y) * self.k(y).sigmoid() + self.v(y)
        mixed = mixed + self.k2(caption).mean(1, True) * self.v2(caption).sum(1, True).cos()
        return x + self.out(mixed)


class Model(nn.Module):
    def __init__(self):
        super().__init__()
        self.blocks = nn.ModuleList([Block(8), Block(8), Block(16)])
        self.around = lambda block: block  # a checkpoint, in some tests

    def forward(self, x: Tensor, caption: Tensor) -> Tensor:
        for block in self.blocks:
            x = self.around(block)(x, caption)
        return x


def made(kind, dtype: torch.dtype, mode: str = "adaptive") -> tuple[Model, lora2.Adapters]:
    torch.manual_seed(1)
    model = Model().to(dtype).requires_grad_(False)
    settings = lora2.RankSettings(mode=mode, target_rank=3, max_rank=8, start_rank=3)
    adapters = lora2.attach(model, r"blocks", settings, frozen=kind)
    fill(adapters)
    adapters.refresh()
    return model, adapters


def parameters(adapters: lora2.Adapters) -> list[Tensor]:
    pairs = [(c.lora_up, c.lora_down) for c in adapters.components.values()]
    return [adapters.rate_parameter, *(p for pair in pairs for p in pair)]


def passed(model, adapters, x: Tensor, caption: Tensor, loss=None) -> list[Tensor | None]:
    """The output and all gradients of one pass; the next one begins after it."""
    leaves = [t.detach().clone().requires_grad_(t.requires_grad) for t in (x, caption)]
    y = model(*leaves)
    (loss or (lambda y: (y.float() - 1).square().sum()))(y).backward()
    found = [y.detach(), *(leaf.grad for leaf in leaves)]
    for parameter in parameters(adapters):
        found.append(parameter.grad)
        parameter.grad = None
    adapters.refresh()
    return found


def inputs(dtype: torch.dtype, learns: tuple[bool, bool] = (True, False)) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(4)
    x = torch.randn(2, 6, WIDTH, generator=generator).to(dtype).requires_grad_(learns[0])
    caption = torch.randn(2, 5, TOKENS, generator=generator).to(dtype)
    return x, caption.requires_grad_(learns[1])


@pytest.fixture(params=["cpu", "cuda"])
def device(request, monkeypatch):
    """Layers are put together as on a GPU too."""
    alike = folding.alike
    device = torch.device(request.param)
    monkeypatch.setattr(folding, "alike", lambda sizes, _: alike(sizes, device))


GROUPS = [["q", "k", "v"], ["k2", "v2"]]


def groups_of(adapters: lora2.Adapters) -> set[frozenset[str]]:
    names = list(adapters.components)
    return {frozenset(names[row] for row in group) for group in adapters.paths.groups}


@pytest.mark.parametrize("learns", [(True, False), (False, False), (True, True)], ids=str)
@pytest.mark.parametrize("mode", ["adaptive", "fixed"])
@pytest.mark.parametrize("dtype", EXACT, ids=str)
def test_all_gradients_are_those_of_the_hooks(dtype, mode, learns, device, monkeypatch):
    if dtype == torch.float16:
        monkeypatch.setattr(passes, "path_dtype", lambda x: x.dtype)
    given = inputs(dtype, learns)
    wanted = passed(*made(lambda module: None, dtype, mode), *given)
    model, adapters = made(frozen_of, dtype, mode)
    share = 2 * EXACT[dtype] if dtype == torch.float32 else 2 * EXACT[torch.bfloat16]
    for _ in range(3):  # they are found in the first pass
        compare(passed(model, adapters, *given), wanted, share)
    own = {frozenset(f"blocks.{i}.{n}" for n in "qkv") for i in range(3)}
    captions = frozenset(f"blocks.{i}.{n}" for i in range(3) for n in ("k2", "v2"))
    assert groups_of(adapters) == own | {captions}


def test_a_few_products_serve_all_layers_of_a_caption(device):
    from torch.utils._python_dispatch import TorchDispatchMode

    class Count(TorchDispatchMode):
        counted = 0

        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            self.counted += any(f"aten.{n}." in str(func) for n in ("mm", "addmm", "addmm_", "bmm"))
            return func(*args, **(kwargs or {}))

    model, adapters = made(frozen_of, torch.bfloat16)
    counts = []
    for _ in range(2):
        with Count() as count:
            passed(model, adapters, *inputs(torch.bfloat16))
        counts.append(count.counted)
    # alone 18 layers have 6 each, 5 those of a caption, and 2 of their own, 1 those of a caption
    assert counts[0] == 12 * 8 + 6 * 6
    # the caption's: 1 for lora_down, 2 for each of 2 shapes, 1 for its gradient; a block's own
    # three: 1, then 2 each, 2 for all; lora_up of each
    assert counts[1] == 12 * 2 + 6 + 18 + (1 + 4 + 1) + 3 * (1 + 6 + 2) + 3 * 5


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_layers_without_gradients_and_calls_in_another_order(dtype):
    """A pass may leave a layer out, call one twice, or give them different inputs."""

    def forward(self, x, caption, turn):
        y = x.tanh()
        q = self.k(y) + self.k(y) if turn % 2 else self.k(y)
        v = self.v(y.clone() if turn > 1 else y)
        v2 = self.v2(caption if turn else 2 * caption)
        return x + self.out(q.sin() + (v.detach() if turn == 3 else v) + v2.mean(1, True))

    found = []
    for kind in (lambda module: None, frozen_of):
        model, adapters = made(kind, dtype)
        first = passed(model, adapters, *inputs(dtype))
        turns = []
        for turn in range(4):
            model.around = lambda b, turn=turn: lambda x, c: forward(b, x, c, turn)
            turns.append(passed(model, adapters, *inputs(dtype)))
        found.append([first, *turns])
    for wanted, ours in zip(*found, strict=True):
        compare(ours, wanted, 4 * EXACT[dtype])


@pytest.mark.parametrize("learns", [(True, False), (False, True)], ids=str)
def test_of_nothing_comes_nothing(learns, device):
    model, adapters = made(frozen_of, torch.float32)
    passed(model, adapters, *inputs(torch.float32, learns))
    assert adapters.paths.groups
    none = [t.detach()[:0].requires_grad_(t.requires_grad) for t in inputs(torch.float32, learns)]
    y, *gradients = passed(model, adapters, *none)
    assert y.shape == (0, 6, WIDTH)
    assert not any(g.any() for g in gradients if g is not None)


def test_an_input_that_was_written_into_is_another_one():
    def forward(self, x, caption):
        y = x.tanh().detach()
        q = self.q(y).sin()
        y.mul_(2)
        return x + self.out(q + self.k(y) + self.v(y) + self.v2(caption).mean(1, True))

    found = []
    for kind in (lambda module: None, frozen_of):
        model, adapters = made(kind, torch.float32)
        passed(model, adapters, *inputs(torch.float32))
        model.around = lambda b: lambda x, c: forward(b, x, c)
        with torch.no_grad():
            found.append(model(*inputs(torch.float32)))
    torch.testing.assert_close(*found)


def test_gradients_of_a_caption_wait_only_so_long(monkeypatch):
    model, adapters = made(frozen_of, torch.float32)
    given = inputs(torch.float32)
    wanted = passed(model, adapters, *given)
    sizes, compute = [], sharing.Given.compute
    monkeypatch.setattr(sharing, "WAITING", 1500)
    monkeypatch.setattr(
        sharing.Given, "compute", lambda self: (sizes.append(len(self.waiting)), compute(self))
    )
    compare(passed(model, adapters, *given), wanted, 2e-6)
    assert 1 < max(sizes) < 6 and sum(sizes) == 6


def test_under_torchs_checkpoint_too():
    model, adapters = made(frozen_of, torch.float32)
    given = inputs(torch.float32)
    wanted = passed(model, adapters, *given)
    for _ in range(2):
        model.around = lambda b: lambda x, c: checkpoint(b, x, c, use_reentrant=False)
        compare(passed(model, adapters, *given), wanted, 2e-6)


def test_a_run_that_goes_on_knows_them():
    """So it rounds as it would have."""

    def run_of():
        model, adapters = made(frozen_of, torch.float32)
        run = Run(adapters, lora2.TrainSettings(6, 1e-2, seed=3))
        return run, lambda _: (model(*inputs(torch.float32)) - 1).square().mean()

    run, loss_fn = run_of()
    steps = run.steps(loss_fn)
    next(steps)
    state = captured(run)
    assert len(state["adapters"]["same_input"]) == 4
    again, loss_again = run_of()
    restore(again, state)
    after = [step.loss for step in steps]
    assert [step.loss for step in again.steps(loss_again)] == after
    del state["adapters"]["same_input"]  # as earlier versions wrote it
    restore_adapters(again.adapters, state["adapters"])
    assert again.adapters.paths.groups is None


def test_nothing_of_a_pass_is_held_by_itself():
    """Circles would keep memory until Python looks for them. After a backward pass, what computes
    the next one stays, without memory.
    """
    model, adapters = made(frozen_of, torch.bfloat16)
    gc.collect()
    gc.disable()
    try:
        for backward in (True, False, True, True, False):
            y = model(*inputs(torch.bfloat16))
            pass_ = adapters.paths.current
            held = [weakref.ref(pass_), weakref.ref(pass_.origin)]
            unit = weakref.ref(pass_.sheets[0].units[0])
            if backward:
                y.sum().backward()
            del y, pass_
            adapters.refresh()
            assert [each() for each in held] == [None, None]
            if backward and adapters.paths.sheets.spare:
                assert unit().down.untyped_storage().nbytes() == 0
            else:
                assert unit() is None
    finally:
        gc.enable()


@pytest.mark.parametrize("mode", ["fixed", "adaptive"])
@pytest.mark.parametrize("dtype", EXACT, ids=str)
def test_two_passes_before_either_backward_are_those_of_one_after_the_other(dtype, mode, device):
    """As where someone else computes the loss. Lambda has gradients once, as torch says it."""
    model, adapters = made(frozen_of, dtype, mode)
    given = [inputs(dtype) for _ in range(2)]
    for _ in range(2):  # layers alone, and together
        first, second = (model(*each).float().square().mean() for each in given)
        first.backward()
        if mode == "adaptive":
            with pytest.raises(RuntimeError, match="backward through the graph a second time"):
                second.backward()
        else:
            second.backward()
            found = [p.grad.clone() for p in parameters(adapters)[1:]]
            for parameter in parameters(adapters)[1:]:
                parameter.grad = None
            for each in given:
                model(*each).float().square().mean().backward()
            for one, parameter in zip(found, parameters(adapters)[1:], strict=True):
                torch.testing.assert_close(
                    one, parameter.grad, rtol=4 * EXACT[dtype], atol=4 * EXACT[dtype]
                )
        for parameter in parameters(adapters)[1:]:
            parameter.grad = None
        adapters.refresh()
