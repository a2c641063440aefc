"""Models that write over what their gradients need: right gradients, or a refusal."""

from contextlib import nullcontext
from weakref import WeakSet

import comfy.model_management
import pytest
import torch
from torch.nn import functional as F

from lora2_core import RankSettings, TrainSettings
from lora2_core.host.training import offloading, overwritten
from lora2_core.host.training.choices import Choices
from lora2_core.host.training.fused import plain_form
from lora2_core.host.training.gradient_checkpointing import Way
from lora2_core.host.training.loan import lent, on_loan
from lora2_core.host.training.memory_plan import Wanted, plan
from lora2_core.host.training.memory_trial import try_shapes
from lora2_core.host.training.objective import Draw, forward_mode, loss_of
from lora2_core.host.training.out_of_place import OutOfPlace, overwriting_refused
from lora2_core.host.training.overwritten import overwriting_allowed
from lora2_core.host.training.run import train_on
from lora2_core.layers.adapters import attach
from lora2_core.layers.passes import Passes
from lora2_core.layers.targets import TargetSettings
from tests.host.examples import examples_of
from tests.tiers import fast

from .flow_models import LTXV, build, pictures


@pytest.fixture(autouse=True)
def nothing_known(monkeypatch):
    monkeypatch.setattr(overwritten, "_models", WeakSet())


def data() -> tuple[list[dict], list[list]]:
    generator = torch.Generator().manual_seed(0)
    latents = [{"samples": torch.randn(1, 128, 2, 4, 4, generator=generator)}]
    facts = {"attention_mask": torch.ones(1, 6, dtype=torch.long)}
    return latents, [[[torch.randn(1, 6, 24, generator=generator), facts]]]


WAYS = {
    "a method": lambda x, w: x.addcmul_(F.layer_norm(x, x.shape[-1:]) @ w, w),
    "a slice's method": lambda x, w: x[:, 1:].mul_(F.layer_norm(x, x.shape[-1:])[:, 1:]),
    "an assigned slice": lambda x, w: x.__setitem__(slice(0, 2), (x @ w)[:2] * x[:2]),
    "an augmented slice": lambda x, w: x.__setitem__(slice(2), x[:2].mul_(x[:2] @ w)),
    "a function": lambda x, w: F.silu(x.mul_(w), inplace=True),
    "one value twice": lambda x, w: x.add_(x.square()).mul_(x @ w),
}


@pytest.mark.parametrize("way", WAYS)
def test_gradients_of_every_way_to_write(way):
    """gradcheck against differences, in fp64; a kept value is used before and after the write."""
    generator = torch.Generator().manual_seed(0)
    start, weight = (torch.randn(4, 4, generator=generator, dtype=torch.float64) for _ in range(2))

    def loss(start, weight):
        with overwriting_allowed():
            x = start * 1.5
            kept = x.square() + F.layer_norm(x, x.shape[-1:])
            WAYS[way](x, weight)
            return (kept * x * weight).square().mean()

    with torch.inference_mode(False), torch.enable_grad():
        start, weight = (t.clone().requires_grad_() for t in (start, weight))
        torch.autograd.gradcheck(loss, (start, weight))


def test_a_write_that_nobody_saw_is_refused():
    with torch.inference_mode(False), torch.enable_grad():
        x = torch.ones(3, requires_grad=True)
        with overwriting_allowed():
            y = x * 2
            z = y.square()
            torch._foreach_add_([y], 1.0)
        with pytest.raises(ValueError, match="writes over values"), overwriting_refused():
            z.sum().backward()


def test_only_what_is_overwritten_is_copied(monkeypatch):
    copies = []
    whole = overwritten.Kept.copy
    monkeypatch.setattr(overwritten.Kept, "copy", lambda kept: copies.append(whole(kept)))
    with torch.inference_mode(False), torch.enable_grad():
        x = torch.ones(3, requires_grad=True)
        with overwriting_allowed():
            y = x * 2
            z = (y.square() + y.exp()).square()
            y.add_(1)
        z.sum().backward()
    assert len(copies) == 1  # of y for its square; the exponential keeps what it gave


def test_a_model_that_overwrites_learns_and_the_next_run_knows(caplog):
    model, choices = build(LTXV), Choices(RankSettings(target_rank=4), TrainSettings(4, 1e-2))
    assert isinstance(forward_mode(model.model), OutOfPlace)
    with caplog.at_level("INFO"):
        out = train_on(model, *data(), choices, lambda step: None)
    assert out.stopped_by is None and len(out.losses) == 4 and len(out.lora.layers) == 16
    assert "writes over values" in caplog.text
    caplog.clear()
    with caplog.at_level("INFO"):
        again = train_on(model, *data(), choices, lambda step: None)
    assert again.losses == out.losses and "writes over values" in caplog.text
    assert not overwritten.overwrites(model.model.diffusion_model), "a run leaves nothing behind"


@pytest.mark.parametrize("name", [LTXV, "Flux", "Qwen-Image"])
def test_a_pass_without_values_tells_it_before_the_first_step(name):
    """A refused step would leave a graph behind that is never given back."""
    model = build(name)
    layers = TargetSettings().chosen(model.model)
    with torch.inference_mode(), lent(model) as loan:
        given = data() if name is LTXV else pictures(name)
        batch = examples_of(model, loan.inner, *given)
        shapes = [batch], layers, dict.fromkeys(layers, 4), {}
        trial = try_shapes([loan.inner], loan.inner, loan.frozen.of, *shapes)
    assert trial.overwrites == (name is LTXV)
    wanted = Wanted(1, 1, 4, 4, trial, TrainSettings())
    assert plan(wanted, 10**12, "auto", lower_start=False).overwrites == trial.overwrites


def test_every_gradient_of_such_a_model_agrees_with_differences():
    model, generator = build(LTXV), torch.Generator().manual_seed(2)
    with overwritten.remembered(model.model.diffusion_model), on_loan(model) as inner:
        examples = examples_of(model, inner, *data())
        noise = torch.randn(examples[0].latent.shape, generator=generator)
        draw = Draw(examples, noise, torch.tensor([0.6]))
        layers = TargetSettings().chosen(inner)
        adapters = attach(inner, layers, RankSettings(mode="fixed", target_rank=2))
        with torch.no_grad():
            for c in adapters.components.values():
                c.lora_up.normal_(0, 0.1, generator=generator)
        try:
            loss_of(inner, draw, {}).backward()
            for name, c in adapters.components.items():
                weights = [c.lora_up, c.lora_down]
                length = torch.cat([w.grad.flatten() for w in weights]).norm()
                ends = []
                with torch.no_grad():
                    for step in (1e-2, -2e-2, 1e-2):
                        for w in weights:
                            w += step / length * w.grad
                        ends.append(float(loss_of(inner, draw, {})))
                slope = (ends[0] - ends[1]) / 2e-2
                assert slope == pytest.approx(float(length), rel=0.02, abs=1e-4), name
        finally:
            adapters.detach()


# classes of the host that write over what their gradients need
OVERWRITING = "LTXV", "LTXAV", "MiniMaxH3", "PixelDiTT2I"


@pytest.mark.parametrize("name", fast(OVERWRITING, "LTXV", "LTXAV"))
def test_gradient_checkpointing_gives_the_same(name, monkeypatch):
    from tests.models.build import build
    from tests.models.data import data_for

    monkeypatch.setattr(offloading, "SMALLEST", 0)
    model, outs = build(name), []
    for checkpointing in ("off", "on", "offload"):
        choices = Choices(
            RankSettings(mode="fixed", target_rank=4), TrainSettings(3, 1e-2, seed=2),
            checkpointing=checkpointing,
        )  # fmt: skip
        outs.append(train_on(model, *data_for(name, model), choices, lambda step: None))
    plain = outs[0]
    for again in outs[1:]:
        assert again.stopped_by is None and again.losses == plain.losses
        for layer, found in again.lora.layers.items():
            torch.testing.assert_close(found.delta(), plain.lora.layers[layer].delta())


def part_of(way: str, *, watched: bool):
    """The gradients of a part that writes over what it gets, computed again."""
    generator = torch.Generator().manual_seed(0)
    start, weight = (torch.randn(4, 4, generator=generator) for _ in range(2))

    def part(pair: tuple, facts: dict) -> torch.Tensor:
        x, w = pair
        kept = x.square() + F.layer_norm(x, x.shape[-1:])
        facts["times"] = facts.get("times", 0) + 1
        WAYS[way](x, w)
        return kept * x * w * facts["times"]

    def gradients(forward) -> list:
        leaves = [start.clone().requires_grad_(), weight.clone().requires_grad_()]
        with overwriting_allowed() if watched else nullcontext():
            loss = forward((leaves[0] * 1.5, leaves[1]), {}).square().mean()
        return torch.autograd.grad(loss, leaves)

    with torch.inference_mode(False), torch.enable_grad():
        return gradients(part), gradients(Way(Passes([]), apart=False).around(part))


@pytest.mark.parametrize("way", WAYS)
def test_what_is_computed_again_has_the_same_gradients(way):
    for plain, found in zip(*part_of(way, watched=True), strict=True):
        assert torch.equal(plain, found)


@pytest.mark.parametrize("way", fast(WAYS))
def test_what_is_computed_again_is_refused_where_writes_are_not_watched(way):
    with pytest.raises(RuntimeError, match="modified by an inplace"):
        part_of(way, watched=False)


def test_a_fused_operation_has_a_plain_form_with_gradients():
    import comfy_kitchen

    generator = torch.Generator().manual_seed(0)
    q, k = (torch.randn(1, 5, 2, 8, generator=generator) for _ in range(2))
    turns = torch.randn(1, 5, 1, 4, 2, 2, generator=generator)
    scale = torch.rand(8, generator=generator)
    operation = comfy_kitchen.rms_rope_split_half
    expected = operation(q, k, turns, scale, scale, 1e-6)
    assert plain_form(torch.add) is None
    assert plain_form(torch.ops.comfy_kitchen.rms_rope_) is None, "it writes"
    with torch.inference_mode(False), torch.enable_grad():
        q, k = q.clone().requires_grad_(), k.clone().requires_grad_()
        with OutOfPlace():
            found = operation(q, k, turns.clone(), scale.clone(), scale.clone(), 1e-6)
        sum(t.sum() for t in found).backward()
    assert q.grad.any() and k.grad.any()
    torch.testing.assert_close(found, expected)
    assert comfy.model_management.in_training is False
