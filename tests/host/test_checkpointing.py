"""Gradient checkpointing: the same training, fewer tensors kept, and a model that is as before."""

import weakref
from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from torch import nn

from lora2_core import RankSettings, TrainSettings
from lora2_core.host.training import offloading
from lora2_core.host.training.choices import Choices
from lora2_core.host.training.gradient_checkpointing import (
    Way,
    checkpointed,
    repeated_blocks,
)
from lora2_core.host.training.run import train_on
from lora2_core.layers.passes import Passes
from lora2_core.layers.several import Several
from tests.reliability.trainings import losses_through
from tests.tiers import each_once, fast


def run_of(mode: str, checkpointing: str) -> Choices:
    rank = RankSettings(mode=mode, target_rank=4, max_rank=16)
    return Choices(rank, TrainSettings(6, 1e-2, seed=3), 2, checkpointing=checkpointing)


def kept_bytes(train: Callable[[Callable], object]) -> int:
    """The most that autograd keeps when a backward pass begins, over the steps of a training."""
    seen, most = {}, 0

    def pack(tensor: torch.Tensor) -> torch.Tensor:
        seen[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    def begin(_count: int, loss: torch.Tensor) -> torch.Tensor:
        nonlocal most
        most = max(most, sum(seen.values()))
        return loss

    hooks = torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor)
    with losses_through(begin), hooks:
        train(lambda step: seen.clear())
    return most


@pytest.mark.parametrize("way", ["on", "offload"])
@pytest.mark.parametrize("mode", fast(["adaptive", "paper", "fixed"]))
def test_losses_and_adapter_are_the_same(playground, mode: str, way: str, monkeypatch):
    monkeypatch.setattr(offloading, "SMALLEST", 0)
    data = playground.model, playground.latents, playground.positive
    plain, again = (train_on(*data, run_of(mode, c), lambda s: None) for c in ("off", way))
    assert again.stopped_by is None and again.losses == pytest.approx(plain.losses, rel=1e-5)
    for name, layer in plain.lora.layers.items():
        apart = again.lora.layers[name].delta() - layer.delta()
        assert apart.norm() <= 1e-3 * layer.delta().norm(), "but for rounding"
    assert again.lora.origin.run.settings["checkpointing"] is True


def test_fewer_tensors_are_kept(playground):
    data = playground.model, playground.latents, playground.positive
    plain, again = (
        kept_bytes(lambda on_step, c=c: train_on(*data, run_of("fixed", c), on_step))
        for c in ("off", "on")
    )
    assert again < 0.7 * plain


@pytest.mark.parametrize("checkpointing", ["off", "on"])
def test_layers_with_the_same_input_are_computed_together(
    playground, checkpointing: str, monkeypatch
):
    counts: list[int] = [0]
    compute = Several.forward

    def counted(ctx, *args):
        counts[-1] += 1
        return compute(ctx, *args)

    monkeypatch.setattr(Several, "forward", staticmethod(counted))
    data = playground.model, playground.latents, playground.positive
    train_on(*data, run_of("fixed", checkpointing), lambda step: counts.append(0))
    attention = [m for m in playground.model.model.modules() if hasattr(m, "to_q")]
    assert counts[1:-1] == [len(attention)] * 5, "once it is known which: to_k, to_v and maybe to_q"


def test_offloading_changes_nothing_and_holds_no_input(playground, monkeypatch):
    monkeypatch.setattr(offloading, "SMALLEST", 0)
    held = []
    plain = offloading.InRam.__init__

    def noted(self, tensor, *rest) -> None:
        plain(self, tensor, *rest)
        held.append(weakref.ref(tensor))

    monkeypatch.setattr(offloading.InRam, "__init__", noted)
    data, alive = (playground.model, playground.latents, playground.positive), []

    def count(number: int, loss: torch.Tensor) -> torch.Tensor:
        alive.append(sum(tensor() is not None for tensor in held))
        return loss

    with losses_through(count):
        offloaded = train_on(*data, run_of("adaptive", "offload"), lambda s: None)
    assert held and max(alive) < 0.2 * len(held) / len(alive)
    again = train_on(*data, run_of("adaptive", "on"), lambda s: None)
    assert again.losses == pytest.approx(offloaded.losses, rel=1e-5), "but for rounding"
    for name, layer in again.lora.layers.items():
        torch.testing.assert_close(
            layer.delta(), offloaded.lora.layers[name].delta(), rtol=1e-3, atol=1e-6
        )


@pytest.mark.parametrize("inside", [True, False])
def test_an_offloaded_value_that_is_written_over_is_refused(inside: bool, monkeypatch):
    monkeypatch.setattr(offloading, "SMALLEST", 0)

    def part(x: torch.Tensor) -> torch.Tensor:
        y = x.square()
        if inside:
            x.add_(1)
        return y

    with torch.inference_mode(False), torch.enable_grad():
        x = torch.ones(3, requires_grad=True) * 2
        with pytest.raises(RuntimeError, match="modified by an inplace"):
            way = Way(Passes([]), apart=False, hold=offloading.Offload().hold)
            y = way.around(part)(x)
            x.add_(1)
            y.sum().backward()


def test_the_blocks_are_as_they_were_even_after_an_error(playground):
    inner = playground.model.model
    adapted = {m for n, m in inner.named_modules() if n.endswith("attn1.to_q")}
    blocks = repeated_blocks(inner, adapted)
    assert {type(b).__name__ for b in blocks} == {"BasicTransformerBlock"}
    assert len(blocks) == len(adapted)
    blocks[0].forward = own = blocks[0].forward  # somebody else's
    try:
        with pytest.raises(RuntimeError, match="stop"), checkpointed(blocks, Way(Passes([]))):
            assert all("forward" in vars(b) for b in blocks)
            raise RuntimeError("stop")
        assert vars(blocks[0])["forward"] is own
        assert not any("forward" in vars(b) for b in blocks[1:])
    finally:
        del blocks[0].forward


def test_an_entry_of_a_feed_forwards_list_is_no_block():
    """As Qwen-Image has them: an activation with the layer before it."""

    def block() -> nn.Module:
        inside = nn.ModuleList([nn.Sequential(nn.Linear(4, 8), nn.GELU()), nn.Linear(8, 4)])
        return nn.ModuleDict({"attention": nn.Linear(4, 4), "feed_forward": inside})

    model = nn.ModuleDict({"blocks": nn.ModuleList([block(), block()])})
    everything = {module for module in model.modules() if isinstance(module, nn.Linear)}
    assert repeated_blocks(model, everything) == list(model["blocks"])


def out_of_memory_from(first: int, inner: nn.Module, *, whatever: bool = False) -> Callable:
    """For losses_through: from that number on a loss fails without checkpointing, or with it too,
    after it has drawn its random numbers.
    """

    def change(count: int, loss: torch.Tensor) -> torch.Tensor:
        blocks = [m for m in inner.modules() if list(m.children())]
        spared = any("forward" in vars(m) for m in blocks) and not whatever
        if count >= first and not spared:
            raise torch.OutOfMemoryError("no memory left")
        return loss

    return change


@pytest.mark.parametrize(("first", "mode"), each_once([1, 2, 4, 6], ["adaptive", "paper", "fixed"]))
def test_a_step_with_too_little_memory_turns_it_on_and_loses_nothing(
    playground, first: int, mode: str
):
    data = playground.model, playground.latents, playground.positive
    wanted = train_on(*data, run_of(mode, "off"), lambda s: None)
    inner = playground.model.model
    with losses_through(out_of_memory_from(first, inner)):
        out = train_on(*data, run_of(mode, "auto"), lambda s: None)
    assert out.stopped_by is None and out.losses == pytest.approx(wanted.losses, rel=1e-5)
    assert out.lora.ranks == wanted.lora.ranks
    assert out.lora.origin.run.settings["checkpointing"] is True
    assert not any("forward" in vars(block) for block in inner.modules())


def test_nothing_of_the_broken_step_is_held_while_it_is_computed_again(playground):
    losses, alive = [], []

    def change(count: int, loss: torch.Tensor) -> torch.Tensor:
        alive.append(bool(losses) and losses[-1]() is not None)
        losses.append(weakref.ref(loss))
        if count == 3:
            raise torch.OutOfMemoryError("no memory left")
        return loss

    data = playground.model, playground.latents, playground.positive
    with losses_through(change):
        train_on(*data, run_of("adaptive", "auto"), lambda s: None)
    assert len(losses) == 7 and not alive[3]


@pytest.mark.parametrize("checkpointing", ["auto", "on", "off"])
def test_where_that_is_not_enough_the_run_ends_with_what_was_learned(
    playground, checkpointing: str
):
    data = playground.model, playground.latents, playground.positive
    change = out_of_memory_from(4, playground.model.model, whatever=checkpointing != "off")
    with losses_through(change):
        out = train_on(*data, run_of("adaptive", checkpointing), lambda s: None)
    assert len(out.losses) == 3 and isinstance(out.stopped_by, torch.OutOfMemoryError)


def test_an_unknown_choice_is_refused():
    with pytest.raises(ValueError, match="checkpointing is 'maybe': choose auto, on, off, off"):
        replace(run_of("fixed", "on"), checkpointing="maybe")
